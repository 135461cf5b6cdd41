"""Predictions scored from files, ceilings by stage, the folder of a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from irr.errors import DocumentError
from irr.evaluate import main
from irr.evaluate.predictions import Predicted, from_predictions, read_predictions
from irr.evaluate.report import build_report
from irr.evaluate.scoring import resolve_gold, score_predictions
from irr.labels import LabelSet
from irr.metrics import parse_specs
from irr.parquet import write_predictions
from irr.types import Document, Label, Prediction, ScoredLabel, Usage
from irr.writer import prediction_to_json

LABELS = LabelSet([Label(str(number), name) for number, name in enumerate("abcdefgh")])
GOLD = [
    Document("x", "text x", gold=("a", "b")),
    Document("y", "text y", gold=("c",)),
    Document("z", "text z", gold=("d", "nowhere")),
]


def write(path: Path, *rows: object) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_rows_of_every_form_in_any_order(tmp_path: Path) -> None:
    path = write(
        tmp_path / "p.jsonl",
        {"id": "y", "labels": ["c", "0"], "guesses": ["see"]},
        {"id": "x", "labels": [{"id": "1", "score": 0.5}, {"label": "a", "score": 0.25}]},
        {"id": "z", "status": "error", "labels": [], "error": {"class": "E", "message": "no"}},
    )
    x, y, z = read_predictions(path, GOLD, LABELS)
    assert x == Predicted((1, 0), (0.5, 0.25), candidates=(1, 0))
    assert y == Predicted((2, 0), None, ("see",), candidates=(2, 0))
    assert z == Predicted((), (), failure="no", candidates=())


def test_rows_of_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    label = ScoredLabel("1", "b", 0.5, "x")
    rows = [Prediction(id_, "ok", (label,), ("bee",)) for id_ in "zyx"]
    lines = [prediction_to_json(row) for row in rows]
    write_predictions(map(str.encode, lines), tmp_path / "p.parquet")
    same = read_predictions(write(tmp_path / "p.jsonl", *lines), GOLD, LABELS)
    assert read_predictions(tmp_path / "p.parquet", GOLD, LABELS) == same
    assert same[0].ranking == (1,)
    write_predictions(map(str.encode, [*lines, lines[0]]), tmp_path / "p.parquet")
    with pytest.raises(DocumentError, match=r"p\.parquet:4: the id 'z' came before, in line 1"):
        read_predictions(tmp_path / "p.parquet", GOLD, LABELS)


def test_a_table_of_something_else_is_no_file_of_predictions(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": ["x"]}), tmp_path / "p.parquet")
    with pytest.raises(DocumentError, match=r"p\.parquet: cannot be read as Parquet predictions"):
        read_predictions(tmp_path / "p.parquet", GOLD, LABELS)


def test_labels_that_are_unknown_are_wrong_and_counted(tmp_path: Path) -> None:
    rows = [{"id": id_, "labels": ["nowhere", "b", "never"]} for id_ in "xyz"]
    (x, _, _) = read_predictions(write(tmp_path / "p.jsonl", *rows), GOLD, LABELS)
    assert x.ranking == (-1, 1, -2)


def test_an_unknown_label_that_is_repeated_counts_once(tmp_path: Path) -> None:
    rows = [{"id": id_, "labels": ["zz", "zz", "a"]} for id_ in "xyz"]
    (x, _, _) = read_predictions(write(tmp_path / "p.jsonl", *rows), GOLD, LABELS)
    assert x.ranking == (-1, -1, 0)
    gold, _ = resolve_gold(GOLD[:1], LABELS)
    result = score_predictions("p", [x], gold, parse_specs("R@2"))
    assert result.scores["R@2"].mean == 0.5


def test_labels_of_one_name() -> None:
    twins = LabelSet([Label("1", "twin"), Label("2", "twin"), Label("3", "c")])
    for names in (("1", "twin"), ("twin", "1")):  # the id says which of them
        gold, _ = resolve_gold([Document("x", "", gold=names)], twins)
        assert gold[0].wanted == (frozenset({0}),)
    gold, _ = resolve_gold([Document("x", "", gold=("twin", "3"))], twins)
    result = score_predictions("p", [Predicted((0, 1, 2))], gold, parse_specs("R@2"))
    assert result.scores["R@2"].mean == 0.5  # the second twin keeps its place
    assert result.stages["top_k"] == 1


def test_rows_that_failed_count_in_the_ceiling() -> None:
    gold, _ = resolve_gold(GOLD[:2], LABELS)
    trace: dict[str, object] = {"candidates": [{"id": "2"}]}
    rows = [
        Prediction("x", "error", error=("E", "no")),
        Prediction("y", "ok", (ScoredLabel("2", "c", 0.123456, ""),), trace=trace),
    ]
    result = score_predictions("p", from_predictions(rows, LABELS), gold, parse_specs("RP@1"))
    assert result.perfect == [0.0, 1.0]
    assert result.failed == 1


@pytest.mark.parametrize(
    ("score", "low"), [(0.5, 0.5), (0.3, 0.3), (1.0, 0.9), (0.29, 0.2), (-0.1, -0.1)]
)
def test_bins_begin_at_tenths(score: float, low: float) -> None:
    gold, _ = resolve_gold(GOLD[:1], LABELS)
    result = score_predictions("p", [Predicted((0,), (score,))], gold, parse_specs("RP@1"))
    assert result.bins == {low: [1, 1]}


def test_unknown_labels_are_named(tmp_path: Path) -> None:
    rows = [{"id": id_, "labels": ["nowhere", "b", "never"]} for id_ in "xyz"]
    (x, _, _) = read_predictions(write(tmp_path / "p.jsonl", *rows), GOLD, LABELS)
    assert x.unknown == ("nowhere", "never")


def test_usage_and_trace_are_read_back(tmp_path: Path) -> None:
    trace = {"candidates": [{"id": "3"}, {"id": "4"}], "picks": [2]}
    usage = {"calls": 2, "input_tokens": 5, "output_tokens": 1}
    row = {"id": "x", "labels": [], "trace": trace, "usage": usage}
    others = [{"id": id_, "labels": []} for id_ in "yz"]
    (x, _, _) = read_predictions(write(tmp_path / "p.jsonl", row, *others), GOLD, LABELS)
    assert (x.candidates, x.picks, x.usage) == ((3, 4), (4,), Usage(2, 5, 1))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "x", "labels": []}, {"id": "x", "labels": []}], ":2: the id 'x' came before"),
        ([{"id": "x", "labels": []}, '{"id": '], ":2: "),
        ([{"id": "q", "labels": []}], ":1: no gold document has the id 'q'"),
        ([{"id": "x", "labels": "a"}], ':1: "labels" must be a list'),
        ([{"id": "x", "labels": [3.5]}], ":1: a label is a name or id"),
        ([{"id": "x"}], ':1: "labels" must be a list'),
        (['{"id": "x", "labels": [{"id": "a", "score": NaN}]}'], ':1: "score" must be a finite'),
        ([{"id": "x", "labels": [{"id": "a", "score": "high"}]}], ':1: "score" must be a finite'),
        ([{"id": "x", "labels": [], "trace": [1]}], ':1: "trace" must be an object'),
        (["[1]"], ":1: a prediction is a JSON object"),
        ([{"id": "x", "labels": []}], " 2 gold documents have no row, such as 'y', 'z'"),
        (
            [{"id": "x", "labels": [], "trace": {"candidates": ["a"], "picks": [7]}}],
            ':1: "picks" must be numbers',
        ),
    ],
)
def test_broken_files_say_where(tmp_path: Path, rows: list[object], message: str) -> None:
    path = write(tmp_path / "p.jsonl", *rows)
    with pytest.raises(DocumentError) as caught:
        read_predictions(path, GOLD, LABELS)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_where_gold_labels_are_lost() -> None:
    gold, unknown = resolve_gold(GOLD, LABELS)
    rows = [
        # a: guessed, retrieved, picked, first. b: retrieved, not picked, out of the top 1.
        Predicted((0, 1), None, ("a",), (1, 0), (0,)),
        # c: guessed, but not among the candidates.
        Predicted((4, 5), None, ("c",), (4, 5), (4,)),
        # d: neither guessed nor retrieved; the other label does not exist.
        Predicted((6,), None, ("g",), (6,), ()),
    ]

    def guessed(guesses: object) -> set[int]:
        return {LABELS.position_of(guess) for guess in guesses}  # type: ignore[attr-defined]

    result = score_predictions("p", rows, gold, parse_specs("RP@1"), guessed_by=guessed)
    assert unknown == {"nowhere": 1}
    assert result.gold == 5
    assert dict(result.stages) == {"guessed": 2, "retrieved": 2, "picked": 1, "top_k": 1}
    assert {stage: dict(counts) for stage, counts in result.lost.items()} == {
        "ranked": {"b": 1},
        "retrieved": {"c": 1},
        "guessed": {"d": 1, "nowhere": 1},
    }
    assert result.perfect == [1.0, 0.0, 0.0]
    assert (result.recall[1], result.recall[2]) == (1, 2)


def test_bands_and_calibration() -> None:
    gold, _ = resolve_gold(GOLD[:2], LABELS)
    rows = [Predicted((0, 1), (0.85, 0.31)), Predicted((3, 2), (0.83, 0.12))]
    result = score_predictions("p", rows, gold, parse_specs("RP@2"), training={0: 9, 1: 2})
    assert result.bands == {"seen": [1, 1], "rare": [1, 1], "unseen": [1, 1], "all": [3, 3]}
    assert result.bins == {0.8: [2, 1], 0.3: [1, 1], 0.1: [1, 1]}


def test_the_report_is_plain_json_and_the_same_each_time() -> None:
    gold, unknown = resolve_gold(GOLD, LABELS)
    rows = [Predicted((0, 1), (0.5, 0.4)), Predicted((2,), (0.9,)), Predicted(())]
    other = [Predicted((0,)), Predicted((5,)), Predicted((3,))]
    texts = []
    for _ in range(2):
        pair = [
            score_predictions(n, r, gold, parse_specs("RP@2"))
            for n, r in (("a", rows), ("b", other))
        ]
        report = build_report(pair, LABELS, title="t", unknown_gold=unknown, made={})
        texts.append(json.dumps(report, sort_keys=True))
    assert texts[0] == texts[1]
    assert report["programs"][0]["metrics"]["RP@2"]["mean"] == pytest.approx(66.67)
    (row,) = report["differences"]
    assert row["mean"] == pytest.approx(100 * (0.5 + 1 - 0.5) / 3, abs=0.01)


def test_a_folder_can_be_scored_again_without_predicting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("bake bread\nspeak German\nrepair bicycles\n")
    rows = [
        {"id": "1", "text": "You bake bread.", "labels": ["bake bread"]},
        {"id": "2", "text": "Repair <b>bicycles</b>!", "labels": ["speak German"]},
    ]
    gold = write(tmp_path / "gold.jsonl", *rows)
    common = ["--labels", str(labels), "--input", str(gold), "--metrics", "RP@1,R@2"]
    folder = tmp_path / "out"
    assert main([*common, "--output", str(folder)]) == 0
    first = json.loads((folder / "metrics.json").read_text())["programs"][0]
    page = (folder / "report.html").read_text()
    assert "<html" in page
    assert "<b>bicycles</b>" not in page
    saved = folder / "predictions-program.jsonl"
    assert [json.loads(line)["id"] for line in saved.read_text().splitlines()] == ["1", "2"]
    capsys.readouterr()
    again = tmp_path / "again"
    arguments = ["--predictions", str(saved), "--output", str(again), "--no-baseline"]
    assert main([*common, *arguments]) == 0
    second = json.loads((again / "metrics.json").read_text())["programs"][0]
    assert second["metrics"] == first["metrics"]
    assert second["recall_by_candidates"] == first["recall_by_candidates"]
    assert capsys.readouterr().err == ""
