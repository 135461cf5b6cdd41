"""Suggestions: what is answered, how guesses are counted and grouped, and the command."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import HashEncoder

from irr.errors import DocumentError
from irr.index import LabelIndex
from irr.labels import LabelSet
from irr.parquet import write_predictions
from irr.suggest import Guessed, Suggester, Suggestion, command, main, nearest_in, read_guesses
from irr.types import Label, Prediction, ScoredLabel
from irr.vectors import Floats, Positions
from irr.writer import prediction_to_json

LABELS = LabelSet([Label("1", "bake bread"), Label("2", "cut hair", ("dress hair",))])


class Angles:
    """Guesses that begin with their direction in degrees; label 0 is at 0 and label 1 at 180."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, texts: Sequence[str]) -> tuple[Floats, Positions, Floats]:
        self.asked += texts
        turns = np.radians([float(text.split()[0]) for text in texts])
        vectors = np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32)
        near = (np.cos(turns) < 0).astype(np.int64)
        return vectors, near, np.abs(np.cos(turns)).astype(np.float32)


def suggested(*documents: Sequence[str], **more: float) -> list[Suggestion]:
    suggester = Suggester(Angles(), str, below=0.6, together=0.9, **more)  # type: ignore[arg-type]
    suggester.add(Guessed(f"d{at}", tuple(texts)) for at, texts in enumerate(documents))
    return suggester.suggestions()


def test_a_guess_near_to_a_label_is_answered() -> None:
    (only,) = suggested(["20 answered", "170 answered", "60 open"])
    assert (only.name, only.nearest) == ("60 open", 0)
    assert only.similarity == pytest.approx(math.cos(math.radians(60)))


def test_the_bound_itself_answers() -> None:
    vectors = np.eye(2, dtype=np.float32)

    def look_up(texts: Sequence[str]) -> tuple[Floats, Positions, Floats]:
        return vectors[:1], np.zeros(1, np.int64), np.array([0.5], np.float32)

    for below, count in ((0.5, 0), (0.501, 1)):
        suggester = Suggester(look_up, str, below=below)
        suggester.add([Guessed("d", ("a",))])
        assert len(suggester.suggestions()) == count


def test_guesses_are_one_whatever_their_case_and_spaces() -> None:
    (only,) = suggested(["80 Kubernetes  Cluster"], ["80 kubernetes cluster"])
    assert only.guesses == (("80 Kubernetes Cluster", 2),)


def test_guesses_are_one_however_their_characters_are_encoded() -> None:
    (only,) = suggested(["80 caf\u00e9 \uff21\uff37\uff33"], ["80 cafe\u0301 aws"])
    assert only.guesses == (("80 caf\u00e9 \uff21\uff37\uff33", 2),)


def test_guesses_in_a_script_without_spaces() -> None:
    look_up = nearest_in(LabelIndex.build(LABELS, HashEncoder()), HashEncoder())
    suggester = Suggester(look_up, str)
    suggester.add([Guessed("a", ("机器学习", "云计算")), Guessed("b", ("云计算",))])
    found = [(one.name, one.documents) for one in suggester.suggestions()]
    assert found == [("云计算", 2), ("机器学习", 1)]


def test_what_says_nothing_is_no_guess() -> None:
    suggester = Suggester(Angles(), str, below=0.6)
    suggester.add([Guessed("a", ("", " \n", "…", "\u200b", "80 x"))])
    assert (suggester.guesses, suggester.unanswered) == (1, 1)


def test_guesses_of_one_meaning_are_a_group_named_by_the_most_frequent() -> None:
    found = suggested(["70 x"], ["80 y", "110 z"], ["80 y"], ["85 w", "80 y"])
    assert [(s.name, s.documents, s.guesses) for s in found] == [
        ("80 y", 4, (("80 y", 3), ("70 x", 1), ("85 w", 1))),
        ("110 z", 1, (("110 z", 1),)),
    ]
    assert found[0].weight == pytest.approx(4 * (1 - math.cos(math.radians(80))))
    assert found[0].examples == ("d1", "d2", "d3", "d0")


def test_a_document_counts_once_for_a_group() -> None:
    (only,) = suggested(["80 a", "82 b", "80 A"])
    assert only.documents == 1


def test_the_order_of_documents_does_not_matter() -> None:
    documents = [["70 x", "95 q"], ["80 y"], ["95 q", "80 y"], ["100 r"], ["95 q"]]
    one, other = suggested(*documents), suggested(*reversed(documents))
    assert [(s.name, s.documents) for s in one] == [(s.name, s.documents) for s in other]


def test_more_than_a_block_of_documents_and_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [[f"{60 + at % 60} v{at % 60}"] for at in range(300)]
    whole = suggested(*documents)
    monkeypatch.setattr("irr.suggest.suggester._BLOCK_OF_ROWS", 7)
    monkeypatch.setattr("irr.suggest.suggester._BLOCK_OF_GROUPS", 3)
    assert suggested(*documents) == whole
    assert sum(s.documents for s in whole) == sum(54 <= 60 + at % 60 < 127 for at in range(300))


@pytest.mark.parametrize(
    ("documents", "order"), [(1, ["90 far", "60 near"]), (3, ["60 near", "90 far"])]
)
def test_many_documents_and_far_from_every_label_come_first(
    documents: int, order: list[str]
) -> None:
    # The cosine of "60 near" is 0.5: each of its documents weighs half of one of "90 far".
    found = suggested(*[["60 near"]] * documents, ["90 far"])
    assert [suggestion.name for suggestion in found] == order


def test_a_guess_is_answered_where_rank_picked_the_label_nearest_to_it() -> None:
    suggester = Suggester(Angles(), str, below=0.6)
    suggester.add(
        [
            Guessed("a", ("80 x",), frozenset({"0"})),
            Guessed("b", ("80 x", "80 x", " "), frozenset({"1"})),
        ]
    )
    (only,) = suggester.suggestions()
    assert only.examples == ("b",)
    assert (suggester.documents, suggester.guesses, suggester.unanswered) == (2, 2, 1)


def test_a_guess_that_picks_answer_everywhere_is_no_suggestion(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("irr.suggest.suggester._BLOCK_OF_ROWS", 1)
    suggester = Suggester(Angles(), str, below=0.6, most=2)
    picked = [Guessed(str(at), (f"{at} x",), frozenset({"0"})) for at in (60, 70, 80)]
    suggester.add([*picked, Guessed("open", ("85 y",))])
    assert [s.name for s in suggester.suggestions()] == ["85 y"]
    assert suggester.forgotten == 0


def test_a_guess_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("irr.suggest.suggester._BLOCK_OF_ROWS", 1)
    look_up = Angles()
    Suggester(look_up, str).add([Guessed("a", ("80 x", "0 y")), Guessed("b", ("0 Y", "80 x"))])
    assert sorted(look_up.asked) == ["0 y", "80 x"]


def test_rare_guesses_are_forgotten_when_there_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("irr.suggest.suggester._BLOCK_OF_ROWS", 1)
    suggester = Suggester(Angles(), str, below=0.6, together=0.999, most=4)
    rows = [["60 a"], ["70 b"], ["60 a"], ["80 c"], ["90 d"], ["100 e"]]
    suggester.add(Guessed(str(at), tuple(texts)) for at, texts in enumerate(rows))
    assert [s.name for s in suggester.suggestions()] == ["60 a", "100 e"]
    assert suggester.forgotten == 3


def test_the_nearest_label_in_an_index_by_any_of_its_names() -> None:
    encoder = HashEncoder()
    look_up = nearest_in(LabelIndex.build(LABELS, encoder), encoder)
    vectors, nearest, cosines = look_up(["dress hair", "bread"])
    assert nearest.tolist() == [1, 0]
    assert cosines.tolist() == pytest.approx(
        [1, float(vectors[1] @ encoder.encode(["bake bread"])[0])]
    )


def write(path: Path, rows: Sequence[object]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def row(id_: str, guesses: list[str], *labels: dict[str, object]) -> dict[str, object]:
    return {"id": id_, "status": "ok", "labels": list(labels), "guesses": guesses}


def test_predictions_are_read(tmp_path: Path) -> None:
    picked = {"id": "1", "label": "x", "evidence": "comb", "picked": True}
    passed = {"id": "2", "label": "y", "evidence": "comb", "picked": False}
    failed = {"id": "c", "status": "error", "labels": [], "guesses": ["lost"]}
    rows = [
        row("a", ["oven", "comb"], picked, passed),
        failed,
        {"id": 7, "status": "ok", "labels": ["1"]},
    ]
    assert list(read_guesses(write(tmp_path / "p.jsonl", rows))) == [
        Guessed("a", ("oven", "comb"), frozenset({"1"})),
        Guessed("7", ()),
    ]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([1], r"p.jsonl:2: is no prediction"),
        ({"id": "b", "guesses": "x"}, r"p.jsonl:2: \"guesses\" must be a list of strings"),
        ({"id": "b", "text": "x", "labels": ["1"]}, r"p.jsonl:2: is no prediction, .* wrote"),
        ({"id": "a", "guesses": []}, r"p.jsonl:2: the id 'a' came before"),
        ({"guesses": []}, r"p.jsonl:2: \"id\" must be a string or number"),
    ],
)
def test_a_bad_row_is_an_error_with_its_line(tmp_path: Path, bad: object, message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        list(read_guesses(write(tmp_path / "p.jsonl", [row("a", []), bad])))


def test_predictions_are_read_from_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    label = ScoredLabel("1", "x", 0.5, "comb", picked=True)
    rows = [Prediction("a", "ok", (label,), ("oven",)), Prediction("b", "ok")]
    file = tmp_path / "p.parquet"
    write_predictions((prediction_to_json(row).encode() for row in rows), file)
    assert list(read_guesses(str(file))) == [
        Guessed("a", ("oven",), frozenset({"1"})),
        Guessed("b", ()),
    ]
    file.write_bytes(b"PAR1 no more")
    with pytest.raises(DocumentError, match="cannot be read as Parquet predictions"):
        list(read_guesses(str(file)))


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Predictions and labels for the command, with an encoder without weights."""
    encoder = HashEncoder()
    monkeypatch.setattr("irr.encoder.load_encoder", lambda *_, **__: encoder)
    rows = [
        row("a", ["train dogs", "bake bread"]),
        row("b", ["Train dogs", "groom cats"]),
        row("c", ["cut hair"]),
    ]
    labels = tmp_path / "labels.txt"
    labels.write_text("bake bread\ncut hair\n")
    return [write(tmp_path / "p.jsonl", rows), "--labels", str(labels)]


def test_the_command_prints_a_table(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    printed = capsys.readouterr()
    header, only = printed.out.splitlines()
    assert header.split("  ")[0] == "suggestion"
    assert only.startswith("train dogs")
    assert "3 documents, 5 guesses, 3 without a label: 1 suggestions" in printed.err


def test_the_command_writes_lines(arguments: list[str], tmp_path: Path) -> None:
    output = tmp_path / "found.jsonl"
    assert main([*arguments, "--output", str(output), "--min-count", "1"]) == 0
    first, second = map(json.loads, output.read_text().splitlines())
    assert first["name"] == "train dogs"
    assert first["documents"] == 2
    assert first["guesses"] == [{"text": "train dogs", "documents": 2}]
    assert first["examples"] == ["a", "b"]
    assert first["nearest"]["id"] in ("bake bread", "cut hair")
    assert first["nearest"]["similarity"] < 0.6
    assert second["name"] == "groom cats"


def test_a_picked_label_answers_the_guess_next_to_it(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bread = {"id": "bake bread", "label": "bake bread", "evidence": "x", "picked": True}
    rows = [row("a", ["bread", "groom cats"], bread), row("b", ["bread"], bread)]
    path = write(tmp_path / "picked.jsonl", rows)
    assert main([path, *arguments[1:], "--min-count", "1", "--below", "1"]) == 0
    _, only = capsys.readouterr().out.splitlines()
    assert only.startswith("groom cats")


def test_control_characters_do_not_reach_the_terminal(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "odd.jsonl", [row("a", ["train \x1b[31mdogs"])])
    assert main([path, *arguments[1:], "--min-count", "1"]) == 0
    assert "train \ufffd[31mdogs" in capsys.readouterr().out


def test_predictions_without_guesses_are_told_in_one_line(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "plain.jsonl", [row("a", []), row("b", [])])
    assert main([path, *arguments[1:]]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        "irr: 2 documents without guesses, as of --lm none: there is nothing to suggest from\n"
    )


def test_a_long_table_ends_with_how_many_more(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "_SHOWN", 1)
    assert main([*arguments, "--min-count", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "and 1 more: see all with --output FILE"


def test_labels_are_read_in_a_language_and_a_format(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    german = {"de": {"name": "Hunde ausbilden"}}
    rows = [{"id": "1", "name": "train dogs", "language": "en", "translations": german}]
    labels = write(tmp_path / "labels.odd", rows)
    command = [arguments[0], "--labels", labels, "--labels-format", "jsonl"]
    assert main(command) == 0
    assert "train dogs" not in capsys.readouterr().out
    assert main([*command, "--language", "de"]) == 0
    assert "Hunde ausbilden" in capsys.readouterr().out


def test_what_a_program_settles_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--program", "p", "--language", "de", "--labels-format", "jsonl"]
    assert main([arguments[0], *given]) == 2
    assert "--labels-format, --language: --program settles that" in capsys.readouterr().err


def test_labels_or_a_program_must_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["p.jsonl"])
    assert "give --labels FILE or --program DIR" in capsys.readouterr().err
