"""The program directory: a program saved, checked and loaded again.

In: `InferRetrieveRank`. Out: a folder that holds all it needs, and the same program from it, in
another process, at another path, on another machine. JSON and npy only, no pickle; no key, no
header, no endpoint. What was changed by hand is noticed and refused.

    program.json    settings, encoder, LM names, prompts; hashes of the other files
    labels.jsonl    the label set
    demos.json      demonstrations of each stage
    priors.npy      priors, where there are any
    index/          label vectors, see `irr.index`
    CARD.md         how it was made, for people
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from irr.cache import atomic_directory, discard
from irr.encoder import load_encoder
from irr.errors import ConfigurationError, InputError, OutputError
from irr.index import LabelIndex
from irr.labels import LabelSet
from irr.program import InferRetrieveRank
from irr.prompts import Prompts, StagePrompt
from irr.retrieve import Retriever, RetrieveSettings
from irr.types import Label

if TYPE_CHECKING:
    import dspy

__all__ = [
    "CARD",
    "check_directory",
    "identity",
    "is_program",
    "load_program",
    "read_manifest",
    "save_program",
]

FORMAT = 2
_HAND = "is not the file that was saved: the program was changed by hand; compile it again"
MANIFEST = "program.json"
CARD = "CARD.md"
_STAGES = ("infer", "rank")
# Of a stage that had no LM: demonstrations are the same for all documents, sizes the defaults.
_UNSET: dict[str, object] = {"nearest": None, "sizes": {}}


def save_program(
    program: InferRetrieveRank,
    folder: Path | str,
    *,
    card: str = "",
    stages_of: Path | str | None = None,
) -> None:
    """Write a program. The folder appears whole or not at all, in the place of an older program.

    The same program gives the same bytes.

    Args:
        card: what ``CARD.md`` holds.
        stages_of: a program directory from which prompts, LM names and demonstrations are taken
            as they are, for a program that was loaded without its LMs.

    Raises:
        OutputError: the folder cannot be written, or holds something that is no program.
    """
    folder = Path(folder)
    check_directory(folder)
    stages = _stages_of(program) if stages_of is None else _saved_stages(Path(stages_of))
    try:
        # Hidden names that nobody else uses: the program appears by renaming, in an instant.
        new = folder.with_name(f".{folder.name}.{os.getpid()}.new")
        with atomic_directory(new) as draft:
            _write(program, draft, card, stages)
        if folder.exists():
            old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
            folder.rename(old)
            new.rename(folder)
            discard(old)
        else:
            new.rename(folder)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from error


def check_directory(folder: Path | str) -> None:
    """Refuse a place for a program that holds something else.

    Raises:
        OutputError: there is a file, or a folder that is neither empty nor a program.
    """
    folder = Path(folder)
    if folder.is_dir():
        if any(folder.iterdir()) and not (folder / MANIFEST).is_file():
            raise OutputError(f"{folder}: is a folder with other things in it; name another one")
    elif folder.exists():
        raise OutputError(f"{folder}: is no folder; name another place for the program")
    elif not folder.absolute().parent.is_dir():
        raise OutputError(f"{folder}: its folder does not exist: create it first")


_Stages = tuple[dict[str, Any], dict[str, Any]]  # rows of the manifest, demonstrations


def _stages_of(program: InferRetrieveRank) -> _Stages:
    rows = {stage: _stage_row(program, stage) for stage in _STAGES}
    return rows, {stage: _demos(program, stage) for stage in _STAGES}


def _saved_stages(folder: Path) -> _Stages:
    demos = json.loads((folder / "demos.json").read_text(encoding="utf-8"))
    return read_manifest(folder)["stages"], demos


def identity(program: InferRetrieveRank) -> dict[str, object]:
    """Everything that decides what a program predicts, by name; long things as hashes.

    Two programs with the same identity predict the same, as far as their LMs do.
    """
    retriever = program.retriever
    rows, demos = _stages_of(program)
    told: dict[str, object] = {
        "labels": program.labels.content_hash[:_SHORT],
        "encoder": retriever.encoder.fingerprint[:_SHORT],
        "retrieval": asdict(retriever.settings),
        "fusion": program.fusion,
        "prompts": _short(
            [[rows[stage][key] for key in ("fields", "instructions")] for stage in rows]
        ),
        "examples": _short(demos),
    }
    if program.selection:
        told["selection"] = [program.selection.include, program.selection.exclude]
    if program.prefer != "any":
        told["prefer"] = program.prefer
    if program.picked_only:
        told["picked_only"] = True
    if retriever.priors is not None:
        told["priors"] = _short(np.asarray(retriever.priors).tolist())
    for stage, row in rows.items():
        module = getattr(program, stage)
        lm = None if module is None else module.predict.lm
        settings = {} if lm is None else {key: lm.kwargs[key] for key in sorted(lm.kwargs)}
        told[f"LM of {stage}"] = [row["lm"], settings, row["sizes"], row["nearest"]]
    return told


_SHORT = 16


def _short(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:_SHORT]


def is_program(folder: Path | str) -> bool:
    """Whether there is a program."""
    return (Path(folder) / MANIFEST).is_file()


def _write(program: InferRetrieveRank, folder: Path, card: str, stages: _Stages) -> None:
    labels, retriever = program.labels, program.retriever
    lines = [json.dumps(_label_row(label), ensure_ascii=False) for label in labels]
    # Line separators inside texts are escaped, so that every line splitter agrees.
    text = "".join(line.translate(_ESCAPES) + "\n" for line in lines)
    (folder / "labels.jsonl").write_text(text, encoding="utf-8", newline="\n")
    rows, demos = stages
    _write_json(folder / "demos.json", demos)
    if retriever.priors is not None:
        np.save(folder / "priors.npy", retriever.priors, allow_pickle=False)
    retriever.index.save(folder / "index")
    (folder / CARD).write_text(card, encoding="utf-8", newline="\n")
    _write_json(folder / MANIFEST, _manifest(program, folder, rows))


_ESCAPES = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def _manifest(
    program: InferRetrieveRank, folder: Path, stages: dict[str, Any]
) -> dict[str, object]:
    retriever = program.retriever
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CARD)
    manifest: dict[str, object] = {
        "format": FORMAT,
        "label_set": {"labels": len(program.labels), "sha256": program.labels.content_hash},
        "encoder": {"name": retriever.encoder.name, "fingerprint": retriever.encoder.fingerprint},
        "retrieve": asdict(retriever.settings),
        "fusion": program.fusion,
        "stages": stages,
        "files": {path.relative_to(folder).as_posix(): _sha256(path) for path in files},
    }
    return {**manifest, "sha256": _digest(manifest)}


def _digest(manifest: dict[str, Any]) -> str:
    """The hash of all that a manifest says beside it."""
    told = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _stage_row(program: InferRetrieveRank, stage: str) -> dict[str, object]:
    module = getattr(program, stage)
    wording: StagePrompt = getattr(program.prompts, stage)
    if module is None:
        instructions = wording.instructions
        return {"fields": wording.fields, "instructions": instructions, "lm": None} | _UNSET
    lm = module.predict.lm
    size = "chunk_chars" if stage == "infer" else "window"
    return {
        "fields": wording.fields,
        "instructions": module.predict.signature.instructions,
        "lm": None if lm is None else lm.model,
        "nearest": None if module.nearest is None else module.nearest.k,
        "sizes": {size: getattr(module, size)},
    }


def _demos(program: InferRetrieveRank, stage: str) -> list[dict[str, object]]:
    module = getattr(program, stage)
    if module is None:
        return []
    demos = module.predict.demos if module.nearest is None else module.nearest.demos
    names = module.predict.signature.fields
    return [{name: demo[name] for name in names if name in demo} for demo in demos]


def _label_row(label: Label) -> dict[str, object]:
    row = {name: value for name, value in asdict(label).items() if value}
    return {"id": label.id, "name": label.name, **row}


def read_manifest(folder: Path | str) -> dict[str, Any]:
    """Read and check ``program.json``, and the hashes of the files that it names.

    Raises:
        InputError: no program, one of another version, or one that was changed; says what.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"no program there: it has no {MANIFEST}", path=folder)
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"is damaged: {error}", path=path) from None
    if version != FORMAT:
        message = f"the program has format {version!r}, this irr reads {FORMAT}: compile it again"
        raise InputError(message, path=path)
    if manifest.get("sha256") != _digest(manifest):
        raise InputError(_HAND, path=path)
    for name, expected in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            raise InputError("is missing: the program was changed; compile it again", path=file)
        if _sha256(file) != expected:
            raise InputError(_HAND, path=file)
    return manifest


def load_program(
    folder: Path | str,
    *,
    lms: Mapping[str, dspy.LM | None] | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> InferRetrieveRank:
    """Load a program: it predicts as the saved one did.

    Args:
        folder: where `save_program` wrote it.
        lms: the LMs of "infer" and "rank"; a stage without one is left out. Their names are in
            the manifest, their connections are not.
        device, threads: see `irr.encoder.load_encoder`.

    Raises:
        InputError: no program, another version, or a file that was changed.
        ConfigurationError: the encoder found under its name has other weights.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    try:
        return _load(folder, manifest, lms or {}, device, threads)
    except (KeyError, TypeError, ValueError) as error:
        path = folder / MANIFEST
        raise InputError(f"is damaged: {type(error).__name__}: {error}", path=path) from error


def _load(
    folder: Path,
    manifest: dict[str, Any],
    lms: Mapping[str, dspy.LM | None],
    device: str,
    threads: int | None,
) -> InferRetrieveRank:
    labels = LabelSet.read(folder / "labels.jsonl")
    expected = manifest["label_set"]["sha256"]
    if labels.content_hash != expected:
        raise InputError("is not the label set of the program", path=folder / "labels.jsonl")
    encoder = load_encoder(manifest["encoder"]["name"], device=device, threads=threads)
    if encoder.fingerprint != manifest["encoder"]["fingerprint"]:
        raise ConfigurationError(
            f"{folder}: the encoder {encoder.name!r} found here has other weights than the one "
            "the program was compiled with: install that one, or compile again"
        )
    index = LabelIndex.load(folder / "index", verify=False)  # its files were hashed already
    if (index.label_set, index.encoder) != (labels.content_hash, encoder.fingerprint):
        raise InputError("is not the index of this label set and encoder", path=folder / "index")
    priors_file = folder / "priors.npy"
    has_priors = "priors.npy" in manifest["files"]
    priors = np.load(priors_file, allow_pickle=False) if has_priors else None
    settings = _settings(manifest["retrieve"], folder)
    retriever = Retriever(encoder, index, settings, labels=labels, priors=priors)
    program = InferRetrieveRank(labels, retriever, fusion=float(manifest["fusion"]))
    program.prompts = Prompts(folder.name, *(_wording(manifest, stage) for stage in _STAGES))
    demos = json.loads((folder / "demos.json").read_text(encoding="utf-8"))
    for stage in _STAGES:
        lm = lms.get(stage)
        if lm is not None:
            row = manifest["stages"][stage]
            setattr(program, stage, _module(program, stage, row, demos[stage], lm))
    return program


def _settings(row: dict[str, Any], folder: Path) -> RetrieveSettings:
    known = {field.name for field in fields(RetrieveSettings)}
    if set(row) != known:
        odd = sorted(set(row) ^ known)
        message = f"'retrieve' differs from this version's settings in {', '.join(odd)}"
        raise InputError(message, path=folder / MANIFEST)
    return RetrieveSettings(**row)


def _wording(manifest: dict[str, Any], stage: str) -> StagePrompt:
    row = manifest["stages"][stage]
    return StagePrompt(row["instructions"], row["fields"])


def _module(
    program: InferRetrieveRank,
    stage: str,
    row: dict[str, Any],
    demos: list[dict[str, Any]],
    lm: dspy.LM,
) -> Any:
    """A stage as it was saved; its prompts are the program's, which hold its instructions."""
    import dspy

    from irr.demos import NearestDemos
    from irr.infer import Infer
    from irr.rank import Rank

    module = (
        Infer(program.prompts, **row["sizes"])
        if stage == "infer"
        else Rank(program.prompts, **row["sizes"])
    )
    module.predict.lm = lm
    if row["nearest"] is None:
        module.predict.demos = [dspy.Example(**demo) for demo in demos]
    else:
        module.nearest = NearestDemos(demos, row["nearest"], program.retriever.encoder.encode)
    return module


def _write_json(path: Path, value: object) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
