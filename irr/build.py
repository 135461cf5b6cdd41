"""Building: names and files → a program. What the commands and scripts begin with.

In: a label set, the names of an encoder and of LMs, prompts, examples. Out: `InferRetrieveRank`.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from irr.encoder import DEFAULT_ENCODER, load_encoder
from irr.errors import ConfigurationError, DocumentError, InputError, IrrError, LMError
from irr.index import open_index
from irr.labels import LabelSet
from irr.program import InferRetrieveRank
from irr.prompts import DEFAULT_PROMPTS, read_prompts
from irr.retrieve import Retriever, RetrieveSettings
from irr.types import Document

if TYPE_CHECKING:
    import dspy

    from irr.hierarchy import Prefer
    from irr.ledger import Ledger
    from irr.selection import Selection

__all__ = [
    "LMChoice",
    "build_program",
    "completed",
    "open_program",
    "read_priors",
    "serving",
]

# Examples in a prompt cost tokens in every call; more than this is work for compile.
MOST_EXAMPLES = 8
_EXAMPLE_CHARS = 2_000


_STAGES = ("infer", "rank")
LMAddress: TypeAlias = tuple[str | None, str | None]  # name and API base


class Served(NamedTuple):
    """The LMs of a run, none of which is yet to be started."""

    lms: LMChoice
    teacher: LMAddress


@dataclass(frozen=True, slots=True)
class LMChoice:
    """Which LMs to ask, and how.

    `name` serves both stages unless `infer` or `rank` names another; "none" is no LM, and None
    the one that a program was compiled with. The other fields are those of `irr.lm.LMSettings`.
    """

    name: str | None = "none"
    api_base: str | None = None
    infer: str | None = None
    infer_api_base: str | None = None
    rank: str | None = None
    rank_api_base: str | None = None
    timeout: float = 120.0
    in_flight: int = 512
    max_tokens: int = 1024

    def for_stage(self, stage: str) -> tuple[str, str | None]:
        """(name, API base) of a stage's LM."""
        own, base = getattr(self, stage), getattr(self, f"{stage}_api_base")
        return own or self.name or "none", base or self.api_base

    @property
    def none(self) -> bool:
        """Whether neither stage has an LM."""
        return all(self.for_stage(stage)[0] == "none" for stage in _STAGES)


@contextlib.contextmanager
def serving(choice: LMChoice, teacher: LMAddress = (None, None)) -> Iterator[Served]:
    """Start a local vLLM for each ``vllm/MODEL`` of a run; gives the names and addresses to ask.

    The servers live as long as the block.

    Raises:
        LMError, ConfigurationError: see `irr.vllm.start_vllm`.
    """
    asked = {stage: choice.for_stage(stage) for stage in _STAGES}
    local = [name for name, _ in (*asked.values(), teacher) if name is not None and _is_local(name)]
    if not local:
        yield Served(choice, teacher)
        return
    for name, base in (*asked.values(), teacher):
        if name in local and base:
            raise ConfigurationError(
                f"{name!r} is started on this machine: leave --api-base out, or name the model as "
                "the server there does"
            )
    from irr.vllm import local_servers

    with local_servers(local, progress=sys.stderr) as servers:
        changes: dict[str, Any] = {}
        for stage, (name, _) in asked.items():
            if name in servers:
                changes[stage] = servers[name].name
                changes[f"{stage}_api_base"] = servers[name].url
        if teacher[0] in servers:
            teacher = (servers[teacher[0]].name, servers[teacher[0]].url)
        try:
            yield Served(replace(choice, **changes), teacher)
        except IrrError as error:
            for server in servers.values():
                if reason := server.failure():
                    raise LMError(reason, fatal=True) from error
            raise


def _is_local(name: str) -> bool:
    return name.startswith("vllm/")


def build_program(
    labels: LabelSet | str | Path,
    *,
    lm: LMChoice | str = "none",
    encoder: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    prompts: str | Path = DEFAULT_PROMPTS,
    examples: Sequence[Document] = (),
    settings: RetrieveSettings | None = None,
    priors: Path | str | None = None,
    window: int = 100,
    fusion: float = 0.0,
    selection: Selection | None = None,
    prefer: Prefer = "any",
    progress: Callable[[int, int], None] | None = None,
    ledger: Ledger | None = None,
) -> InferRetrieveRank:
    """Make a program. The labels are embedded, or their vectors taken from the user's cache.

    Args:
        labels: a label set, or its file, or ``icd10cm``.
        lm: the LMs, or the name of one for both stages.
        encoder: a sentence-transformers model by name or folder.
        prompts: shipped prompts by name, or a file.
        examples: a few documents with gold labels, shown to the LMs; at most `MOST_EXAMPLES`.
        priors: a JSON file, see `read_priors`.
        window: candidates in one prompt of Rank.
        fusion: weight of retrieval's order beside Rank's.
        selection, prefer: which labels may come out, see `InferRetrieveRank`.
        progress: called with (labels embedded so far, labels in all).
        ledger: keeps and counts the LMs' replies.

    Raises:
        IrrError: a file, name or setting cannot be used; nothing was sent to any LM.
    """
    choice = LMChoice(lm) if isinstance(lm, str) else lm
    if examples and choice.none:
        raise ConfigurationError("--examples are shown to an LM: give one with --lm")
    wording = read_prompts(prompts)
    lms = _open(choice, ledger)
    label_set = labels if isinstance(labels, LabelSet) else LabelSet.read(labels)
    table = read_priors(priors, label_set) if priors is not None else None
    model = load_encoder(encoder or DEFAULT_ENCODER, device=device, threads=threads)
    index = open_index(label_set, model, progress=progress, threads=threads)
    retriever = Retriever(
        model, index, settings or RetrieveSettings(), labels=label_set, priors=table
    )
    retriever.prepare()
    program = InferRetrieveRank(
        label_set,
        retriever,
        fusion=fusion,
        in_flight=choice.in_flight,
        prompts=wording,
        selection=selection,
        prefer=prefer,
    )
    if lms["infer"] is not None:
        from irr.infer import Infer

        program.infer = Infer(wording)
        program.infer.predict.lm = lms["infer"]
    if lms["rank"] is not None:
        from irr.rank import Rank

        program.rank = Rank(wording, window=window)
        program.rank.predict.lm = lms["rank"]
    if examples:
        _show_examples(program, examples)
    return program


def open_program(
    folder: Path | str,
    *,
    lm: LMChoice | None = None,
    device: str = "auto",
    threads: int | None = None,
    ledger: Ledger | None = None,
) -> InferRetrieveRank:
    """Load a program directory, with its LMs.

    Args:
        folder: what compile wrote.
        lm: where the LMs are. Names that it leaves out are those the program was compiled with;
            "none" runs a stage without its LM.

    Raises:
        IrrError: see `irr.directory.load_program`; or an LM's name or key cannot be used.
    """
    from irr.directory import load_program

    choice = completed(lm or LMChoice(None), folder)
    lms = _open(choice, ledger)
    program = load_program(folder, lms=lms, device=device, threads=threads)
    program.retriever.prepare()
    program.in_flight = choice.in_flight
    return program


def completed(choice: LMChoice, folder: Path | str) -> LMChoice:
    """The LMs of a program: those that `choice` leaves out are what it was compiled with.

    Raises:
        InputError: see `irr.directory.read_manifest`.
    """
    from irr.directory import read_manifest

    recorded = {stage: row["lm"] for stage, row in read_manifest(folder)["stages"].items()}
    named: dict[str, Any] = {
        stage: getattr(choice, stage) or choice.name or recorded[stage] or "none"
        for stage in _STAGES
    }
    return replace(choice, **named)


def read_priors(path: Path | str, labels: LabelSet) -> list[float]:
    """Read how frequent each label is: a JSON object of label name or id → number of at least 0.

    Labels without an entry get 0; entries of labels that are not in the set are an error only
    where none fits, since priors are often counted over another version of a label set.

    Returns:
        One number a label, in the order of the label set.

    Raises:
        InputError: no JSON object, a number that is none, or no entry fits.
    """
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file", path=path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", path=path) from None
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg}", path=path, line=error.lineno) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"not usable JSON: {error}", path=path) from None
    if not isinstance(table, dict):
        raise InputError("priors are a JSON object: label name or id -> number", path=path)
    priors = [0.0] * len(labels)
    fitting = 0
    for name, value in table.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e30:
            raise InputError(f"the prior of {name!r} is no number of at least 0", path=path)
        for position in labels.find_all(name.strip()):
            priors[position] = float(value)
            fitting += 1
    if not fitting:
        raise InputError("no entry names a label of the label set", path=path)
    return priors


def _open(choice: LMChoice, ledger: Ledger | None) -> dict[str, dspy.LM | None]:
    """The LM of each stage. Stages with the same LM share its connections and their bound."""
    opened: dict[tuple[str, str | None], dspy.LM | None] = {}
    for stage in _STAGES:
        name, api_base = key = choice.for_stage(stage)
        if key in opened or name == "none":
            continue
        from irr.lm import LMSettings, open_lm

        opened[key] = open_lm(
            LMSettings(
                name,
                api_base,
                timeout=choice.timeout,
                max_in_flight=choice.in_flight,
                max_tokens=choice.max_tokens,
            ),
            ledger=ledger,
            role=f"student of {stage}" if opened else "student",
        )
    return {stage: opened.get(choice.for_stage(stage)) for stage in _STAGES}


def _gold(document: Document, labels: LabelSet) -> list[int]:
    """The labels of an example; of a name that several labels have, the first."""
    positions = []
    for name in document.gold or ():
        found = labels.find_all(name)
        if not found:
            raise DocumentError(
                f"the example {document.id!r} has the label {name!r}, which is not in the label "
                "set: mend its name, or leave it out"
            )
        positions.append(found[0])
    return list(dict.fromkeys(positions))


def _show_examples(program: InferRetrieveRank, examples: Sequence[Document]) -> None:
    """Give labelled documents to the stages as demonstrations.

    Infer is shown the names of the gold labels as guesses. Rank is shown the gold labels among
    the candidates that the document's own phrases retrieve, in the order of retrieval.
    """
    import dspy

    from irr.demos import shown_with_gold
    from irr.phrases import phrases
    from irr.rank import DEMO_DESCRIPTIONS_CHARS, show_candidates

    labels = program.labels
    infer_demos, rank_demos = [], []
    for document in examples[:MOST_EXAMPLES]:
        text = document.text[:_EXAMPLE_CHARS]
        gold = _gold(document, labels)
        found = program.retriever.retrieve(phrases(text), ())
        shown, numbers = shown_with_gold([c.position for c in found], gold)
        names = [labels[position].name for position in gold]
        infer_demos.append(dspy.Example(text=text, guesses=names))
        candidates = show_candidates(list(map(labels.distinct, shown)), DEMO_DESCRIPTIONS_CHARS)
        rank_demos.append(dspy.Example(text=text, candidates=candidates, ranking=numbers))
    if program.infer is not None:
        program.infer.predict.demos = infer_demos
    if program.rank is not None:
        program.rank.predict.demos = rank_demos
