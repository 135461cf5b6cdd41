from __future__ import annotations

import json
from pathlib import Path

import pytest

from irr.errors import ConfigurationError
from irr.evaluate import main
from irr.evaluate.predictions import from_predictions
from irr.evaluate.scoring import resolve_gold
from irr.evaluate.scoring import score_predictions as score_resolved
from irr.labels import LabelSet
from irr.metrics import parse_metrics, parse_specs
from irr.types import Document, Label, Prediction, ScoredLabel, Usage

LABELS = LabelSet([Label("1", "a"), Label("2", "b"), Label("3", "c")])


def score_predictions(predictions, documents, labels, metrics):  # type: ignore[no-untyped-def]
    gold, unknown = resolve_gold(documents, labels)
    rows = from_predictions(predictions, labels)
    specs = parse_specs(",".join(f"{name}@{k}" for name, k in metrics))
    return score_resolved("program", rows, gold, specs), unknown


def predicted(*ids: str, status: str = "ok") -> Prediction:
    names = {"1": "a", "2": "b", "3": "c"}
    labels = tuple(ScoredLabel(id_, names[id_], 0.5, "") for id_ in ids)
    return Prediction("x", status, labels, usage=Usage(calls=2))


def test_scores_by_hand() -> None:
    gold = [
        Document("x", "", gold=("a", "3")),  # by name and by id
        Document("x", "", gold=("b", "unheard of")),
        Document("x", "", gold=()),
        Document("x", "", gold=("a",)),
    ]
    predictions = [predicted("1", "2"), predicted("2"), predicted("1"), predicted(status="error")]
    metrics = [("RP", 1), ("RP", 2), ("R", 2)]
    result, unknown = score_predictions(predictions, gold, LABELS, metrics)
    assert result.scores["RP@1"].mean == pytest.approx((1 + 1 + 0) / 3)
    assert result.scores["RP@2"].mean == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert result.scores["RP@1"].documents == 3
    assert (result.documents, result.failed, result.usage.calls) == (4, 1, 8)
    assert unknown == {"unheard of": 1}


@pytest.mark.parametrize("name", ["", "RP", "RP@0", "XY@5", "RP@5;R@5", "RP@5,"])
def test_unknown_metrics(name: str) -> None:
    with pytest.raises(ConfigurationError, match="unknown metric"):
        parse_metrics(name)


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    labels = tmp_path / "labels.txt"
    labels.write_text("bake bread\nspeak German\nrepair bicycles\n")
    gold = tmp_path / "gold.jsonl"
    rows = [
        {"text": "You bake bread.", "labels": ["bake bread"]},
        {"text": "You repair bicycles.", "labels": ["repair bicycles", "fly planes"]},
    ]
    gold.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(labels), str(gold)


def test_the_command(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    labels, gold = files
    assert main(["--labels", labels, "--input", gold, "--metrics", "RP@1,R@3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["metric", "program", "95%", "interval"]
    assert lines[1].split()[:2] == ["RP@1", "100.0"]
    assert lines[2].split()[:2] == ["R@3", "75.0"]
    assert lines[3] == "2 documents, 0 without labels, 0 failed"
    assert lines[4].startswith("program: of 100 gold labels 67 were among the candidates, 67 in")
    assert lines[5] == "1 gold labels are not in the label set, such as 'fly planes'"


def test_json(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    labels, gold = files
    assert main(["--labels", labels, "--input", gold, "--metrics", "RP@1", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["metrics"] == {"RP@1": {"mean": 100.0, "low": 100.0, "high": 100.0}}
    assert row["documents"] == 2
    assert row["report"]["unknown_gold"] == {"fly planes": 1}


def test_gold_without_labels_is_an_error(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "x", "labels": []}\n{"text": "y"}\n')
    assert main(["--labels", files[0], "--input", str(bad)]) == 3
    assert capsys.readouterr().err.startswith(f"irr: error: {bad}:2: ")


def test_a_name_that_two_labels_have_stands_for_either() -> None:
    labels = LabelSet([Label("1", "a"), Label("2", "a"), Label("3", "c")])
    gold = [Document("x", "", gold=("a", "c")), Document("y", "", gold=("2", "a"))]
    rankings = [predicted("2", "1", "3"), predicted("1", "2")]
    result, _ = score_predictions(rankings, gold, labels, [("RP", 2), ("R", 3)])
    assert result.scores["R@3"].mean == 1.0


def test_failures_show_in_the_status(
    files: tuple[str, str], serve: object, capsys: pytest.CaptureFixture[str]
) -> None:
    from scripted_server import Reply

    server = serve(lambda call: Reply("no luck", status=400))  # type: ignore[operator]
    arguments = ["--labels", files[0], "--input", files[1], "--lm", "t", "--api-base", server.url]
    assert main(arguments) == 7
    assert "no luck" in capsys.readouterr().err
