"""The evaluation scripts: the fuzz, the published algorithm against ours, the replay, errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from irr.index import LabelIndex
from irr.labels import LabelSet
from irr.types import Label

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "eval"), str(ROOT / "eval" / "bench")]
import replay_recorded  # noqa: E402
import reporting  # noqa: E402
import retrieval  # noqa: E402
import startup  # noqa: E402
from conftest import HashEncoder  # noqa: E402


def script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "eval" / name), *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=180,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )


def error_of(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode not in (0, None), result.stdout
    (line,) = result.stderr.splitlines()
    return line


def test_fuzzed_replies_break_nothing() -> None:
    result = script("fuzz_replies.py", "--rows", "300", "--limit", "120", "--json")
    assert result.returncode == 0, result.stderr + result.stdout
    row = json.loads(result.stdout)
    assert row["failed_checks"] == {}
    assert sum(row["status"].values()) == row["rows"] == 300
    assert row["status"]["ok"] > 270
    assert {"good", "surrogates", "fault", "obeys the document"} <= row["replies"].keys()


def test_the_fuzz_fails_when_a_check_fails() -> None:
    import fuzz_replies

    labels = fuzz_replies.nasty_labels()
    checks = fuzz_replies.Checks(labels)
    known = labels[0]
    row = {"id": "row 0", "status": "ok", "labels": [{"id": "no such id", "label": "HACKED"}]}
    document = next(fuzz_replies.documents(1, 0))
    checks.row(document, json.dumps(row))
    assert checks.failures["every label is in the label set"]
    assert not checks.failures["no label twice"]
    row["labels"] = [{"id": known.id, "label": known.name}] * 2
    checks.row(document, json.dumps(row))
    assert checks.failures["no label twice"]


@pytest.mark.parametrize("queries", [1, 2, 7])
def test_ours_is_the_published_algorithms_top(queries: int) -> None:
    draw = np.random.default_rng(queries)
    vectors = draw.standard_normal((300, 16)).astype(np.float32)
    index = LabelIndex(vectors)
    names = [f"label {number}" for number in range(300)]
    documents = retrieval.draw_queries(index, 5, queries)
    at_once = retrieval.ours_at_once(names, index, documents, 20)
    for document, batched in zip(documents, at_once, strict=True):
        scores = [max(float(label @ query) for query in document) for label in index.vectors]
        expected = sorted(zip(names, scores, strict=True), key=lambda pair: -pair[1])[:20]
        one = retrieval.ours(names, index, document, 20)
        assert retrieval.same(expected, one)
        assert retrieval.same(expected, batched)
        assert retrieval.same(expected, retrieval.stripped(names, index.vectors, document, 20))


def test_the_published_form_gives_the_same() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("sentence_transformers")
    index = LabelIndex(np.random.default_rng(0).standard_normal((60, 8)))
    names = [f"label {number}" for number in range(60)]
    (queries,) = retrieval.draw_queries(index, 1, 4)
    tensor = torch.from_numpy(np.array(index.vectors))
    found = retrieval.published(names, tensor, queries, 10)
    assert retrieval.same(found, retrieval.stripped(names, index.vectors, queries, 10))


def test_rankings_that_differ_are_not_the_same() -> None:
    ranking = [("a", 0.9), ("b", 0.5), ("c", 0.5), ("d", 0.1)]
    traded = [("a", 0.9), ("c", 0.5), ("b", 0.5), ("d", 0.1)]
    assert retrieval.same(ranking, traded)
    assert not retrieval.same(ranking, [("b", 0.9), ("a", 0.5), ("c", 0.5), ("d", 0.1)])
    assert not retrieval.same(ranking, ranking[:3])
    assert not retrieval.same(ranking, [("a", 0.8), *ranking[1:]])


def recorded(**changes: object) -> dict[str, object]:
    row: dict[str, object] = {
        "text": "We bake bread.",
        "label": ["bake bread", "sell cakes"],
        "queries": ["bake bread"],
        "predictions": ["sell cakes", "cut hair", "bake bread"],
        "documents": ["sell cakes", "", "no such label", "sell cakes"],
    }
    return row | changes


def record(tmp_path: Path, *rows: object) -> Path:
    path = tmp_path / "recorded.json"
    path.write_text(json.dumps(list(rows)))
    return path


def test_a_recorded_run_is_read(tmp_path: Path) -> None:
    (read,) = replay_recorded.read_records(record(tmp_path, recorded()))
    assert read.picked == 1
    assert read.ranking == ("sell cakes", "cut hair", "bake bread")
    assert read.gold == {"bake bread", "sell cakes"}


def test_the_bounds_before_rank_hold_for_every_place_of_the_picks() -> None:
    from itertools import permutations

    ranking, picked, gold = tuple("abcdef"), 3, frozenset("bcdf")
    read = replay_recorded.Record("", gold, (), ranking, picked)
    rest = ranking[picked:]
    for k in (1, 2, 3, 4, 5, 6, 9):
        room = min(k, len(gold))
        orders = (o for o in permutations(ranking) if tuple(x for x in o if x in rest) == rest)
        values = [len(gold & set(order[:k])) / room for order in orders]
        assert replay_recorded.bounds_before_rank(read, k) == (min(values), max(values))


def test_the_replay_prints_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = HashEncoder()
    monkeypatch.setattr(replay_recorded, "load_encoder", lambda: encoder)
    names = ["bake bread", "sell cakes", "cut hair", "drive lorries"]
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(names) + "\n")
    path = record(tmp_path, recorded(), recorded(text="cut hair", queries=["cut hair"]))
    arguments = ["--labels", str(labels), "--recorded", str(path)]
    assert replay_recorded.main([*arguments, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["documents"] == 2
    assert row["rows"]["recorded, after GPT-4"]["RP@5"]["mean"] == 100.0
    assert row["recorded_before_rank"]["RP@50"] == [100.0, 100.0]
    assert row["minus_recorded_after_rank"]["phrases only"]["RP@50"]["mean"] == 0.0
    assert replay_recorded.main(arguments) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["RP@5", "RP@10", "RP@50"]
    assert [line.partition("  ")[0] for line in table[1:6]] == [
        "guesses + phrases",
        "guesses only",
        "phrases only",
        "recorded, after GPT-4",
        "recorded, before GPT-4",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "must be a JSON list of documents"),
        ("{", "is not JSON"),
        ("[{}]", "document 1 has no text"),
        (json.dumps([recorded(queries="SQL")]), "'queries' of document 1 is no list"),
        (json.dumps([recorded(documents=["cut hair"])]), "do not begin with what GPT-4 picked"),
        (json.dumps([recorded(label=[])]), "no document has a gold label"),
    ],
)
def test_a_bad_recorded_run_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "recorded.json"
    path.write_text(content)
    result = script("replay_recorded.py", "--labels", "none.txt", "--recorded", str(path))
    line = error_of(result)
    assert line.startswith(f"error: {path}: ")
    assert message in line
    assert result.returncode == 3


def test_missing_files_and_bad_options_are_one_line(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere.jsonl")
    calls = [
        ("replay_recorded.py", "--labels", nowhere, "--recorded", nowhere),
        ("compare_pooling.py", "--labels", nowhere, "--input", nowhere),
        ("bench/retrieval.py", "--labels", nowhere),
        ("bench/retrieval.py", "--labels", nowhere, "--queries", "0"),
        ("bench/startup.py", "--labels", nowhere, "--repeats", "0"),
        ("fuzz_replies.py", "--rows", "0"),
    ]
    for call in calls:
        assert error_of(script(*call)).startswith("error: "), call


def test_the_cpu_time_of_a_process_is_read() -> None:
    before = startup.cpu_so_far(os.getpid())
    assert 0 < before < 10_000
    taken = startup.timed(["irr.predict", "--help"], Path("unused"))
    assert 0 < taken.cpu < 60
    assert 0 < taken.wall < 60


def test_the_machine_is_described() -> None:
    found = reporting.machine()
    assert found["cores"] == len(os.sched_getaffinity(0))
    assert {"cpu", "python", "numpy", "irr"} <= found.keys()


def test_pooling_rows_on_a_small_label_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import compare_pooling

    monkeypatch.setattr(compare_pooling, "load_encoder", lambda: HashEncoder())
    labels = LabelSet([Label("1", "bake bread"), Label("2", "cut hair"), Label("3", "sell cakes")])
    monkeypatch.setattr(compare_pooling.LabelSet, "read", lambda path: labels)
    gold = tmp_path / "gold.jsonl"
    gold.write_text(json.dumps({"text": "bake bread", "labels": ["bake bread"]}) + "\n")
    assert compare_pooling.main(["--labels", "x", "--input", str(gold), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["labels"], row["documents"], row["unknown_gold"]) == (3, 1, 0)
    assert list(row["rows"]) == ["default", "max", "max - 0.3 hub", "log-mean-exp - 0.3 hub"]
    assert row["rows"]["max"]["RP@5"] == {"mean": 100.0, "low": 100.0, "high": 100.0}


def test_signals_on_a_small_label_set(
    hash_encoder: HashEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bm25s")
    import lanes

    from irr.types import Document

    monkeypatch.setenv("IRR_CACHE", str(tmp_path))
    plain = LabelSet(Label(str(number), f"name{number} of label") for number in range(30))
    rich = LabelSet(
        Label(str(number), f"name{number} of label", (f"alias{number} words",), f"about {number}")
        for number in range(30)
    )
    sets = {lanes.NAMES: plain, "synonyms": rich, "descriptions": rich, "all": rich}
    bench = lanes.Bench(hash_encoder, sets, [("R", 1), ("R", 5)])
    documents = [Document(str(n), f"alias{n} words", (str(n), "unknown")) for n in range(20)]
    examples = lanes.examples_of(documents, plain)
    assert [example.gold for example in examples] == [(number,) for number in range(20)]
    rows = bench.rows(examples[10:], bench.tuned(examples[:10]))
    assert set(rows) == {
        *("lexical only", lanes.NAMES, "names + synonyms", "names + descriptions"),
        *("names + exact", "names + lexical", "all", "all, tuned"),
    }
    assert all(values.shape == (10,) for row in rows.values() for values in row.values())
    assert rows["names + synonyms"]["R@1"].mean() == rows["lexical only"]["R@1"].mean() == 1
    assert rows[lanes.NAMES]["R@1"].mean() < 0.5
    folds = lanes.cross_validated(bench, examples, for_rank=True)
    assert folds["R@5"].shape == (20,)
