from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import HashEncoder
from scripted_server import Call, ScriptedServer

import irr.build
import irr.directory
from irr.build import LMChoice, build_program, open_program
from irr.cli import main
from irr.directory import load_program, save_program
from irr.labels import LabelSet
from irr.retrieve import RetrieveSettings
from irr.types import Document, Label

Serve = Callable[..., ScriptedServer]
LABELS = LabelSet([Label("1", "use databases"), Label("2", "bake bread"), Label("3", "sing")])


@pytest.fixture
def encoded(hash_encoder: HashEncoder, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that were embedded."""
    texts: list[str] = []

    class Recording(HashEncoder):
        def encode(self, wanted: Sequence[str], *, progress: object = None) -> np.ndarray:
            texts.extend(wanted)
            return super().encode(wanted, progress=progress)

    for module in (irr.build, irr.directory):
        monkeypatch.setattr(module, "load_encoder", lambda *args, **options: Recording())
    return texts


@pytest.fixture
def more(tmp_path: Path) -> str:
    path = tmp_path / "more.jsonl"
    rows = [
        {"id": "2", "name": "bake cakes", "alternative_names": ["bake bread"]},
        {"id": "4", "name": "fly planes"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def good(call: Call) -> str:
    return '{"guesses": ["fly planes"]}' if call.stage == "infer" else '{"ranking": [1]}'


def test_labels_are_added_and_renamed_with_only_new_names_embedded(
    encoded: list[str],
    more: str,
    tmp_path: Path,
    serve: Serve,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = serve(good)
    lm = LMChoice("tiny", server.url, timeout=5)
    examples = [Document("e", "Bread!", gold=("2",))]
    save_program(build_program(LABELS, lm=lm, examples=examples), tmp_path / "p", card="card\n")
    encoded.clear()
    assert (
        main(["labels", str(tmp_path / "p"), "--add", more, "--output", str(tmp_path / "q")]) == 0
    )
    assert encoded == ["bake cakes", "fly planes"]
    assert "1 labels added, 1 changed" in capsys.readouterr().out
    extended = load_program(tmp_path / "q")
    whole = LabelSet(
        [
            Label("1", "use databases"),
            Label("2", "bake cakes", ("bake bread",)),
            Label("3", "sing"),
            Label("4", "fly planes"),
        ]
    )
    assert list(extended.labels) == list(whole)
    fresh = build_program(whole)
    np.testing.assert_array_equal(extended.retriever.index.vectors, fresh.retriever.index.vectors)
    np.testing.assert_allclose(extended.retriever.index.hubs, fresh.retriever.index.hubs)
    assert "Extended afterwards" in (tmp_path / "q" / "CARD.md").read_text()
    server.calls.clear()
    program = open_program(tmp_path / "q", lm=LMChoice(None, server.url, timeout=5))
    assert program.predict("x").labels[0].id == "4"
    assert len(server.calls[0].messages) == 4  # the demonstration is still there
    assert server.calls[0].body["model"] == "tiny"


def test_adding_what_is_there_is_refused(
    encoded: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_program(build_program(LABELS), tmp_path / "p")
    path = tmp_path / "same.jsonl"
    path.write_text('{"id": "3", "name": "sing"}\n')
    assert main(["labels", str(tmp_path / "p"), "--add", str(path)]) == 3
    assert "in the program already" in capsys.readouterr().err


def test_show_prints_the_card(
    encoded: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_program(build_program(LABELS), tmp_path / "p", card="# Card\nüber\n")
    assert main(["show", str(tmp_path / "p")]) == 0
    assert capsys.readouterr().out == "# Card\nüber\n"
    assert main(["show", str(tmp_path)]) == 3
    assert "no program there" in capsys.readouterr().err


def test_diff_says_what_differs(
    encoded: list[str], more: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, c = (str(tmp_path / name) for name in "abc")
    save_program(build_program(LABELS), a)
    save_program(build_program(LABELS, settings=RetrieveSettings(temperature=0.2)), b)
    main(["labels", a, "--add", more, "--output", c])
    capsys.readouterr()
    assert main(["diff", a, a]) == 0
    assert capsys.readouterr().out == "no difference\n"
    assert main(["diff", a, b]) == 1
    assert capsys.readouterr().out == "retrieve.temperature: 0.11 -> 0.2\n"
    assert main(["diff", a, c]) == 1
    out = capsys.readouterr().out
    assert "label_set.labels: 3 -> 4" in out
    assert "labels added: 1 (4)" in out
    assert "labels changed: 1 (2)" in out
