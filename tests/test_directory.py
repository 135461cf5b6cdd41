from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import HashEncoder
from scripted_server import Call, ScriptedServer

import irr.build
import irr.directory
from irr.build import LMChoice, build_program, open_program
from irr.demos import NearestDemos
from irr.directory import load_program, read_manifest, save_program
from irr.errors import ConfigurationError, InputError, OutputError
from irr.labels import LabelSet
from irr.retrieve import RetrieveSettings
from irr.types import Document, Label
from irr.writer import prediction_to_json

Serve = Callable[..., ScriptedServer]

LABELS = LabelSet(
    [
        Label("1", "use databases", ("SQL, and more",), "Tables\u2028and rows.", ("0",)),
        Label("2", 'bake "bread"'),
        Label("3", "speak German"),
    ]
)
TEXTS = ["You bake bread.", "We speak German and use databases.", "SQL 数据库"]


@pytest.fixture(autouse=True)
def _encoder(hash_encoder: HashEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (irr.build, irr.directory):
        monkeypatch.setattr(module, "load_encoder", lambda *args, **options: hash_encoder)


def good(call: Call) -> str:
    if call.stage == "infer":
        return json.dumps({"guesses": [f"guess {len(call.messages)}"]})
    return json.dumps({"ranking": [len(call.candidates)]})


def rows(program: Any) -> list[str]:
    documents = [Document(str(number), text) for number, text in enumerate(TEXTS)]
    return [prediction_to_json(p) for p in program.predict_many(documents, trace=True)]


def test_a_program_without_an_lm(tmp_path: Path) -> None:
    settings = RetrieveSettings(candidates=2, temperature=0.2, hub_weight=0.0)
    program = build_program(LABELS, settings=settings)
    save_program(program, tmp_path / "p", card="# Card\n")
    loaded = load_program(tmp_path / "p")
    assert list(loaded.labels) == list(LABELS)
    assert loaded.retriever.settings == settings
    assert rows(loaded) == rows(program)
    assert (tmp_path / "p" / "CARD.md").read_text() == "# Card\n"


def test_a_program_with_all_signals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bm25s")
    monkeypatch.setenv("IRR_CACHE", str(tmp_path / "cache"))
    settings = RetrieveSettings(
        lexical_weight=0.3, exact_weight=0.2, alternative_handicap=0.1, description_handicap=0.05
    )
    program = build_program(LABELS, settings=settings)
    save_program(program, tmp_path / "p")
    monkeypatch.setenv("IRR_CACHE", str(tmp_path / "another"))
    loaded = load_program(tmp_path / "p")
    assert loaded.retriever.settings == settings
    assert rows(loaded) == rows(program) != rows(build_program(LABELS))


def test_a_program_with_lms_demos_and_priors(tmp_path: Path, serve: Serve) -> None:
    server = serve(good)
    priors = tmp_path / "priors.json"
    priors.write_text('{"speak German": 0.5}')
    program = build_program(
        LABELS,
        lm=LMChoice("tiny", server.url, timeout=5),
        examples=[Document("e", "Bread is baked.", gold=("2",))],
        priors=priors,
        settings=RetrieveSettings(prior_strength=10.0),
        window=7,
        fusion=0.5,
        prompts="esco",
    )
    program.rank.nearest = NearestDemos(  # type: ignore[union-attr]
        [{"text": text, "candidates": ["a"], "ranking": [1]} for text in TEXTS],
        2,
        program.retriever.encoder.encode,
    )
    expected = rows(program)
    first = [call.body for call in server.calls]
    save_program(program, tmp_path / "p")
    shutil.copytree(tmp_path / "p", tmp_path / "elsewhere" / "copy")
    server.calls.clear()
    loaded = open_program(tmp_path / "elsewhere" / "copy", lm=LMChoice(None, server.url, timeout=5))
    assert rows(loaded) == expected
    key = json.dumps
    assert sorted(map(key, first)) == sorted(key(call.body) for call in server.calls)


def test_the_same_program_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_program(build_program(LABELS), tmp_path / name)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert len(files) >= 6
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_nothing_secret_is_saved(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    server = serve(good)
    program = build_program(LABELS, lm=LMChoice("tiny", server.url))
    save_program(program, tmp_path / "p")
    content = b"".join(p.read_bytes() for p in (tmp_path / "p").rglob("*") if p.is_file())
    assert b"canary" not in content
    assert b"127.0.0.1" not in content
    assert b"openai/tiny" in content


def test_an_older_program_is_replaced_but_nothing_else(tmp_path: Path) -> None:
    save_program(build_program(LABELS), tmp_path / "p", card="old")
    save_program(build_program(LABELS), tmp_path / "p", card="new")
    assert (tmp_path / "p" / "CARD.md").read_text() == "new"
    other = tmp_path / "photos"
    other.mkdir()
    (other / "cat.jpg").write_bytes(b"")
    with pytest.raises(OutputError, match="other things in it"):
        save_program(build_program(LABELS), other)
    with pytest.raises(OutputError, match="is no folder"):
        save_program(build_program(LABELS), other / "cat.jpg")
    with pytest.raises(OutputError, match="create it first"):
        save_program(build_program(LABELS), tmp_path / "no" / "such")


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest, with a right hash for what it says then."""
    row = json.loads(path.read_text())
    change(row)
    path.write_text(json.dumps({**row, "sha256": irr.directory._digest(row)}))


def drop_a_label(folder: Path) -> None:
    path = folder / "labels.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


def cut_the_vectors(folder: Path) -> None:
    path = folder / "index" / "vectors.npy"
    path.write_bytes(path.read_bytes()[:-4])


def cut_the_vectors_consistently(folder: Path) -> None:
    path = folder / "index" / "vectors.npy"
    np.save(path, np.load(path)[:-1])


def remove_the_demos(folder: Path) -> None:
    (folder / "demos.json").unlink()


def another_format(folder: Path) -> None:
    edit(folder / "program.json", lambda row: row.update(format=99))


def another_encoder(folder: Path) -> None:
    edit(folder / "program.json", lambda row: row["encoder"].update(fingerprint="f" * 64))


def an_unknown_setting(folder: Path) -> None:
    edit(folder / "program.json", lambda row: row["retrieve"].update(temprature=1))


def another_fusion(folder: Path) -> None:
    path = folder / "program.json"
    path.write_text(path.read_text().replace('"fusion": 0.0', '"fusion": 99.0'))


def no_stages(folder: Path) -> None:
    edit(folder / "program.json", lambda row: row.pop("stages"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_a_label, r"labels\.jsonl: is not the file that was saved"),
        (cut_the_vectors, r"vectors\.npy: is not the file that was saved"),
        (cut_the_vectors_consistently, r"vectors\.npy: is not the file that was saved"),
        (remove_the_demos, r"demos\.json: is missing"),
        (another_format, "the program has format 99, this irr reads 2"),
        (another_encoder, "the encoder 'hash' found here has other weights"),
        (an_unknown_setting, "differs from this version's settings in temprature"),
        (another_fusion, r"program\.json: is not the file that was saved: .* changed by hand"),
        (no_stages, r"program\.json: is damaged: KeyError: 'stages'"),
    ],
)
def test_what_was_changed_by_hand_is_refused(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    save_program(build_program(LABELS), tmp_path / "p")
    damage(tmp_path / "p")
    with pytest.raises((InputError, ConfigurationError), match=message):
        load_program(tmp_path / "p")


def test_what_is_no_program(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no program there"):
        read_manifest(tmp_path)
    (tmp_path / "program.json").write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        read_manifest(tmp_path)
