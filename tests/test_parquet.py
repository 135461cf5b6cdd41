"""`irr.parquet`: documents of every type of column, and predictions that come back the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from irr.documents import read_documents, read_gold
from irr.errors import ConfigurationError, DocumentError
from irr.parquet import read_predictions, require_pyarrow, write_predictions
from irr.types import Document, Prediction, ScoredLabel, Usage
from irr.writer import prediction_to_json

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
ROOT = Path(__file__).parents[1]


def write(path: Path, columns: dict[str, Any]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "in.parquet"


@pytest.mark.parametrize(
    ("columns", "documents"),
    [
        (
            {"ID": ["a", "b"], "Text": ["x\ny", " "], "labels": [["l", "k", "l"], None]},
            [Document("a", "x\ny", ("l", "k")), Document("b", " ")],
        ),
        ({"text": ["x", "y"]}, [Document("1", "x"), Document("2", "y")]),
        ({"id": [7, None], "text": ["x", ""]}, [Document("7", "x"), Document("2", "")]),
        ({"id": [7.0, 1.5], "text": ["x", "y"]}, [Document("7", "x"), Document("1.5", "y")]),
        (
            {"text": ["x", "y", "z"], "labels": ["p|q", "", None]},
            [Document("1", "x", ("p", "q")), Document("2", "y", ()), Document("3", "z")],
        ),
        ({"text": ["x"], "labels": [[1, 2]]}, [Document("1", "x", ("1", "2"))]),
        (
            {"text": pa.array(["x", "x"]).dictionary_encode()},
            [Document("1", "x"), Document("2", "x")],
        ),
        ({"text": pa.array(["x"], pa.large_string()), "id": [None]}, [Document("1", "x")]),
        ({"text": pa.array([], pa.string())}, []),
    ],
)
def test_columns(path: Path, columns: dict[str, Any], documents: list[Document]) -> None:
    assert list(read_documents(write(path, columns))) == documents


def test_another_text_column_and_gold(path: Path) -> None:
    write(path, {"text": ["no"], "Body": ["yes"], "labels": [["a"]]})
    assert list(read_gold(path, text_column="body")) == [Document("1", "yes", ("a",))]


@pytest.mark.parametrize(
    ("columns", "row", "message"),
    [
        ({"text": ["x", None]}, 2, "no 'text': fill it in"),
        ({"body": ["x"]}, 1, "no column for the text: name one text; found: 'body'"),
        ({"text": [1]}, None, "the column 'text' holds int64: it must hold strings"),
        ({"text": ["x"], "id": [b"a"]}, None, "the column 'id' holds binary: it must hold strings"),
        ({"text": ["x"], "id": [True]}, None, "the column 'id' holds bool: it must hold strings"),
        ({"text": ["x"], "labels": [1]}, None, "the column 'labels' holds int64"),
        ({"text": ["x"], "labels": [[b"a"]]}, None, "the column 'labels' holds list<"),
        ({"text": ["x", "y"], "id": ["a", "a"]}, 2, "the id 'a' came before: ids must be unique"),
        ({"text": ["x", "y"], "id": ["a", " "]}, 2, "the id is empty"),
        ({"text": ["x"], "id": [float("nan")]}, 1, "finite number, not NaN"),
        ({"text": ["\0"]}, 1, "the text holds a NUL character"),
        ({"text": ["x"], "labels": [["a", None]]}, 1, "an entry of the labels must be a string"),
    ],
)
def test_errors_name_file_and_row(
    path: Path, columns: dict[str, Any], row: int | None, message: str
) -> None:
    with pytest.raises(DocumentError) as caught:
        list(read_documents(write(path, columns)))
    assert (caught.value.path, caught.value.line) == (str(path), row)
    assert message in str(caught.value)


def test_what_is_not_parquet(path: Path) -> None:
    path.write_text("id,text\n")
    with pytest.raises(DocumentError, match="cannot be read as Parquet") as caught:
        list(read_documents(path))
    assert "\n" not in str(caught.value)
    write(path, {"text": ["x" * 50] * 1000})
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DocumentError, match="cannot be read as Parquet"):
        list(read_documents(path))
    packed = path.rename(path.with_name("in.parquet.gz"))
    with pytest.raises(DocumentError, match="Parquet is packed in itself: unpack it"):
        list(read_documents(packed))


def test_text_that_is_not_utf8_is_an_error_of_its_row(path: Path) -> None:
    raw = pa.array([b"ok", b"\xff"], pa.binary())
    write(path, {"text": raw.view(pa.string())})
    with pytest.raises(DocumentError, match="cannot be read as Parquet"):
        list(read_documents(path))


def test_parquet_among_the_files_of_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "1.parquet", {"text": ["a", "b"]})
    (tmp_path / "2.jsonl").write_text('{"text": "c"}\n')
    assert [document.id for document in read_documents(tmp_path)] == ["1", "2", "3"]


PEAK = """
import re, sys
from irr.documents import read_documents
length = sum(len(d.text) for d in read_documents(sys.argv[1]))
peak = re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]
sys.stdout.write(f"{length} {peak}")
"""


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="this system does not tell a process's peak"
)
def test_a_large_file_streams(tmp_path: Path) -> None:
    peaks = []
    for count in (1_000, 40_000):
        path = tmp_path / f"{count}.parquet"
        texts = (f"{i:08}" * 250 for i in range(count))
        write(path, {"text": list(texts)})
        command = [sys.executable, "-c", PEAK, str(path)]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        length, peak = map(int, result.stdout.split())
        assert length == count * 2_000
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 20_000  # kB, of 80,000 kB of text in one row group


FULL = Prediction(
    "a",
    "ok",
    (ScoredLabel("1", "b", 0.8301, "é\u2028"), ScoredLabel("2", "c", -0.5, "", picked=False)),
    ("g",),
    Usage(2, 911, 41),
    ("n",),
    trace={"guesses": ["g"], "candidates": [{"score": 0.1}], "none": None},
)
FAILED = Prediction("b", "error", error=("LMError", "no answer"))


def test_predictions_come_back_the_same(path: Path) -> None:
    lines = [prediction_to_json(p) for p in (FULL, FAILED, Prediction("c", "ok"))]
    write_predictions((line.encode() + b"\n" for line in lines), path)
    assert list(read_predictions(path)) == lines


def test_the_columns_of_predictions(path: Path) -> None:
    write_predictions([prediction_to_json(p).encode() for p in (FULL, FAILED)], path)
    first, second = pq.read_table(path).to_pylist()
    assert first["labels"][1] == {
        "id": "2",
        "label": "c",
        "score": -0.5,
        "evidence": "",
        "picked": False,
    }
    assert first["usage"] == {"calls": 2, "input_tokens": 911, "output_tokens": 41}
    assert json.loads(first["trace"]) == FULL.trace
    assert (first["guesses"], first["notes"], first["error"]) == (["g"], ["n"], None)
    assert second["error"] == {"class": "LMError", "message": "no answer"}
    assert (second["labels"], second["notes"], second["trace"]) == ([], None, None)


WORDS = st.text(st.characters(exclude_categories=["Cs"]))


@given(WORDS, st.floats(-1, 1), st.sampled_from([None, True, False]))
def test_any_prediction_comes_back_the_same(
    tmp_path_factory: pytest.TempPathFactory, word: str, score: float, picked: bool | None
) -> None:
    path = tmp_path_factory.mktemp("predictions") / "a.parquet"
    label = ScoredLabel(word, word, score, word, picked)
    line = prediction_to_json(Prediction(word, "ok", (label,), (word,), notes=(word,)))
    write_predictions([line.encode()], path)
    assert list(read_predictions(path)) == [line]


def test_no_predictions_make_a_file_with_columns(path: Path) -> None:
    write_predictions([], path)
    assert list(read_predictions(path)) == []
    assert pq.read_schema(path).names[:3] == ["id", "status", "labels"]


def test_without_pyarrow_one_line_says_what_to_install(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.touch()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for use in (lambda: require_pyarrow(str(path)), lambda: read_documents(path)):
        with pytest.raises(ConfigurationError) as caught:
            use()
        assert str(caught.value) == f"{path}: Parquet needs pyarrow: pip install 'irr[parquet]'"


def test_pyarrow_is_imported_only_when_used() -> None:
    code = "import sys, irr.documents, irr.journal, irr.parquet; sys.exit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
