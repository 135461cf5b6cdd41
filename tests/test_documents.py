"""`irr.documents`: documents and gold in, predictions out."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import logging
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from irr.documents import (
    PredictionWriter,
    documents_from_texts,
    prediction_to_json,
    read_documents,
    read_gold,
    write_predictions,
)
from irr.errors import ConfigurationError, DocumentError, OutputError
from irr.types import Document, Prediction, ScoredLabel, Usage

ROOT = Path(__file__).parents[1]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


JSONL = (
    '\ufeff{"id": "a", "text": "x\\ny"}\r\n\n{"text": " ", "labels": null}\n{"id": 7, "text": ""}'
)


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize(
    ("name", "content", "documents"),
    [
        ("a.jsonl", JSONL, [Document("a", "x\ny"), Document("2", " "), Document("7", "")]),
        (
            "a.jsonl",
            '{"text": "t", "labels": [" b ", "a|c", 3, "b"]}\n{"text": "u", "labels": []}',
            [Document("1", "t", ("b", "a|c", "3")), Document("2", "u", ())],
        ),
        ("a.jsonl", "", []),
        (
            "a.csv",
            'ID,Text,Labels,more\r\na,"x, ""y""\nz",p|q| p,1\r\n\r\nb,,,2\r\n',
            [Document("a", 'x, "y"\nz', ("p", "q")), Document("b", "", ())],
        ),
        ("a.csv", "text\nx\ny", [Document("1", "x"), Document("2", "y")]),
        ("a.csv", "text\n", []),
        ("a.tsv", "id\ttext\n1\tx, y\n", [Document("1", "x, y")]),
        ("dir.v1/ad 7.txt", "\ufeff{one}\r\n\ntwo\n", [Document("ad 7", "{one}\r\n\ntwo\n")]),
    ],
)
def test_formats(
    tmp_path: Path, name: str, content: str, documents: list[Document], packed: str
) -> None:
    assert list(read_documents(write(tmp_path, name + packed, content))) == documents


def test_a_folder_gives_its_txt_files_in_order(tmp_path: Path) -> None:
    for name, text in [("b.txt", "B"), ("a/c.TXT", "C"), ("a.b.txt.gz", "AB"), ("x.md", "-")]:
        write(tmp_path, name, text)
    write(tmp_path, ".hidden/d.txt", "-")
    write(tmp_path, "._b.txt", b"\xff")
    assert list(read_documents(tmp_path)) == [
        Document("a.b", "AB"),
        Document("a/c", "C"),
        Document("b", "B"),
    ]


def test_another_text_column(tmp_path: Path) -> None:
    table = write(tmp_path, "a.csv", "text,Sentence\nno,yes\n")
    rows = write(tmp_path, "a.jsonl", '{"text": "no", "sentence": "yes"}')
    assert [d.text for d in read_documents(table, text_column="sentence")] == ["yes"]
    assert [d.text for d in read_documents(rows, text_column="sentence")] == ["yes"]
    for plain in (write(tmp_path, "a.txt", "x"), tmp_path):
        with pytest.raises(ConfigurationError, match="plain text has no column 'sentence'"):
            read_documents(plain, text_column="sentence")


@pytest.mark.parametrize(
    ("content", "documents"),
    [
        ("", []),
        ("one\r\n\ntwo", [Document("1", "one"), Document("2", ""), Document("3", "two")]),
        ("\n [x]\n{}\n", [Document("1", ""), Document("2", " [x]"), Document("3", "{}")]),
        ('\n \n {"text": "x"}\n{"text": "y"}', [Document("1", "x"), Document("2", "y")]),
        ("\ufeffé", [Document("1", "é")]),
    ],
)
def test_standard_input(
    monkeypatch: pytest.MonkeyPatch, content: str, documents: list[Document]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    assert list(read_documents("-")) == documents
    assert not sys.stdin.closed


def test_standard_input_errors_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"text": "x"}\n{"text"\n')))
    with pytest.raises(DocumentError, match=r"^<stdin>:2: malformed JSON"):
        list(read_documents("-"))


def test_standard_input_answers_before_it_ends() -> None:
    code = "from irr.documents import *\nfor d in read_documents('-'): print(d.text, flush=True)"
    command = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=ROOT, text=True) as process:
        assert process.stdin
        assert process.stdout
        for text in ("one", "two"):
            process.stdin.write(text + "\n")
            process.stdin.flush()
            assert process.stdout.readline() == text + "\n"
        process.stdin.close()


def test_texts_of_the_command_line() -> None:
    assert list(documents_from_texts(["b", ""])) == [Document("1", "b"), Document("2", "")]
    with pytest.raises(DocumentError, match="text 2 is not valid UTF-8"):
        list(documents_from_texts(["a", "\udce4"]))


@pytest.mark.parametrize(
    ("name", "content", "line", "message"),
    [
        (
            "a.jsonl",
            '{"text": "x"}\n\n{"text": x}\n',
            3,
            "malformed JSON: Expecting value at column 10",
        ),
        ("a.jsonl", '{"id": "a", "txt": "x"}', 1, "no \"text\": add it; found: 'id', 'txt'"),
        ("a.jsonl", '{"text": null}', 1, 'no "text"'),
        ("a.jsonl", '{"text": ["x"]}', 1, '"text" must be a string, not a list'),
        ("a.jsonl", '{"text": "x", "id": 1.5}', 1, '"id" must be a string or number'),
        ("a.jsonl", '{"text": "x", "id": ""}', 1, '"id" is empty'),
        (
            "a.jsonl",
            '{"text": "x", "labels": "y"}',
            1,
            '"labels" must be a list of strings, not a string',
        ),
        ("a.jsonl", '{"text": "x", "labels": [null]}', 1, "must be a string or number, not null"),
        ("a.jsonl", '{"text": "x", "labels": [" "]}', 1, 'an entry of "labels" is empty'),
        ("a.jsonl", '"x"', 1, 'expected {"id": …, "text": …}, found a string'),
        ("a.jsonl", '{"text": "\\ud800"}', 1, "half a character"),
        ("a.jsonl", '{"text": "x", "id": "\\udc00"}', 1, "half a character"),
        ("a.jsonl", '{"text": "\\u0000"}', 1, "NUL"),
        ("a.jsonl", '{"text": "x"}\n\0', 2, "NUL"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "\xff"}', 2, "byte 0xff at offset 24"),
        ("a.jsonl", '{"id": 1, "text": ""}\n{"id": "1", "text": ""}', 2, "the id '1' came before"),
        ("a.jsonl", '{"id": "2", "text": ""}\n{"text": ""}', 2, "the id '2' came before"),
        ("a.csv", "", None, "is empty"),
        (
            "a.csv",
            "id,body\n1,x\n",
            1,
            "no column for the text: name one text; found: 'id', 'body'",
        ),
        ("a.csv", "id,text\n1\n", 2, "has 1 cells where the header has 2"),
        ("a.csv", "id,text\n,x\n", 2, "the id is empty"),
        ("a.csv", 'id,text\n1,"x\ny"\n1,z\n', 4, "the id '1' came before"),
        ("a.csv", 'id,text\n1,"x\ny', 2, "never closed"),
        ("a.txt", b"ab\n\xff", 2, "byte 0xff at offset 3"),
        ("a.txt", b"a\0", 1, "NUL"),
        ("a.json", "{}", None, "must end in .jsonl, .csv, .tsv or .txt"),
    ],
)
def test_errors_name_file_and_line(
    tmp_path: Path, name: str, content: str | bytes, line: int | None, message: str
) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(DocumentError) as caught:
        list(read_documents(path))
    assert (caught.value.path, caught.value.line) == (str(path), line)
    assert message in str(caught.value)


def test_what_is_not_there_is_an_error_at_once(tmp_path: Path) -> None:
    write(tmp_path, "ads.jsonl", "")
    with pytest.raises(DocumentError, match=r"did you mean ads\.jsonl\?"):
        read_documents(tmp_path / "ad.jsonl")
    with pytest.raises(DocumentError, match="cannot be read"):
        read_documents("x" * 300)
    with pytest.raises(DocumentError, match=r"holds no \.txt file"):
        list(read_documents(tmp_path))


def test_a_folder_may_not_hold_an_id_twice(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", "")
    second = write(tmp_path, "a.txt.gz", "")
    with pytest.raises(DocumentError, match="the id 'a' came before") as caught:
        list(read_documents(tmp_path))
    assert caught.value.path == str(second)


def test_gold_needs_labels(tmp_path: Path) -> None:
    good = write(
        tmp_path, "a.jsonl", '{"text": "x", "labels": ["b", "a", "b"]}\n{"text": "y", "labels": []}'
    )
    assert list(read_gold(good)) == [Document("1", "x", ("b", "a")), Document("2", "y", ())]
    table = write(tmp_path, "a.csv", "text,labels\nx,b|a\ny,\n")
    assert [document.gold for document in read_gold(table)] == [("b", "a"), ()]
    missing = [
        write(tmp_path, "b.jsonl", '{"text": "x", "labels": []}\n{"text": "y"}'),
        write(tmp_path, "b.csv", "text\nx\n"),
    ]
    for path in missing:
        with pytest.raises(DocumentError, match='has no "labels"') as caught:
            list(read_gold(path))
        assert caught.value.line == 2
    with pytest.raises(DocumentError, match="holds no documents"):
        list(read_gold(write(tmp_path, "c.jsonl", "\n")))


def test_a_large_file_streams(tmp_path: Path) -> None:
    line = json.dumps({"text": "x" * 2_000}) + "\n"
    path = write(tmp_path, "a.jsonl", line * 20_000)
    tracemalloc.start()
    try:
        assert sum(len(document.text) for document in read_documents(path)) == 40_000_000
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))


@given(TEXTS)
def test_any_texts_survive_jsonl(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    path = tmp_path_factory.mktemp("documents") / "a.jsonl"
    lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts]
    path.write_text("".join(lines), encoding="utf-8", newline="")
    assert [document.text for document in read_documents(path)] == texts


@given(TEXTS)
def test_any_texts_survive_csv(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("documents") / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([["text"], *([text] for text in texts)])
    assert [document.text for document in read_documents(path)] == texts


AD = Prediction(
    "ad-17",
    "ok",
    (ScoredLabel("S5.6.1", "use databases", 0.83004, "PostgreSQL"),),
    ("PostgreSQL", "database administration"),
    Usage(2, 911, 41),
)


def test_a_prediction_is_the_line_of_the_design() -> None:
    assert prediction_to_json(AD) == (
        '{"id": "ad-17", "status": "ok", "labels": [{"id": "S5.6.1", "label": "use databases", '
        '"score": 0.83, "evidence": "PostgreSQL"}], "guesses": ["PostgreSQL", '
        '"database administration"], '
        '"usage": {"calls": 2, "input_tokens": 911, "output_tokens": 41}}'
    )


def test_what_is_said_only_where_there_is_something_to_say() -> None:
    label = ScoredLabel("1", "a", -0.00001, "é", picked=False)
    usage = {"calls": 0, "input_tokens": 0, "output_tokens": 0}
    full = Prediction("x", "ok", (label,), notes=("n",), error=("E", "m"), trace={"k": [1]})
    assert json.loads(prediction_to_json(full)) == {
        "id": "x",
        "status": "ok",
        "labels": [{"id": "1", "label": "a", "score": 0.0, "evidence": "é", "picked": False}],
        "guesses": [],
        "usage": usage,
        "notes": ["n"],
        "trace": {"k": [1]},
    }
    assert '"score": 0.0,' in prediction_to_json(full)
    assert "é" in prediction_to_json(full)
    error = prediction_to_json(Prediction("x", "error", error=("LMError", "no")))
    assert error.endswith('"error": {"class": "LMError", "message": "no"}}')


@given(st.text())
def test_a_prediction_is_one_line_of_utf8_whatever_it_holds(text: str) -> None:
    line = prediction_to_json(Prediction(text, "ok", guesses=(text,)))
    assert line.splitlines() == [line]
    expected = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    assert json.loads(line.encode())["id"] == expected


@pytest.mark.parametrize("end", ["\n", "\r", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029"])
def test_line_breaks_are_escaped(end: str) -> None:
    line = prediction_to_json(Prediction(end, "ok"))
    assert end not in line
    assert json.loads(line)["id"] == end


def rows(count: int) -> Iterator[Prediction]:
    return (Prediction(str(i), "ok") for i in range(1, count + 1))


def ids(path: Path) -> list[str]:
    data = path.read_bytes()
    text = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    assert text.endswith(b"\n")
    return [json.loads(line)["id"] for line in text.decode().splitlines()]


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_a_file_appears_when_it_is_whole(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, "old")
    old = path.read_bytes()
    with PredictionWriter(path) as writer:
        for prediction in rows(3):
            writer.write(prediction)
            assert path.read_bytes() == old
    assert ids(path) == ["1", "2", "3"]
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    assert writer.rows == write_predictions(rows(3), path) == 3
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == name.endswith(".gz")


def test_rows_are_on_disk_as_they_come(tmp_path: Path) -> None:
    with PredictionWriter(tmp_path / "out.jsonl") as writer:
        writer.write(Prediction("1", "ok"))
        assert writer.partial == tmp_path / "out.jsonl.partial"
        assert ids(writer.partial) == ["1"]


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, DocumentError("x")])
def test_finished_rows_outlive_an_error(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    error: BaseException | type[BaseException],
) -> None:
    def broken() -> Iterator[Prediction]:
        yield from rows(2)
        raise error

    path, partial = tmp_path / name, tmp_path / f"{name}.partial"
    with pytest.raises((KeyboardInterrupt, DocumentError)), caplog.at_level(logging.WARNING):
        write_predictions(broken(), path)
    assert not path.exists()
    assert ids(partial) == ["1", "2"]
    assert caplog.messages == [f"2 finished rows are kept in {partial}"]

    # A new run keeps what it finds.
    assert write_predictions(rows(1), path) == 1
    assert (ids(path), ids(tmp_path / f"{name}.partial.1")) == (["1"], ["1", "2"])
    assert not partial.exists()


def test_nothing_is_kept_where_nothing_was_finished(tmp_path: Path) -> None:
    with pytest.raises(KeyError), PredictionWriter(tmp_path / "out.jsonl"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_written_through(tmp_path: Path) -> None:
    target, link = write(tmp_path, "a/real.jsonl", "old"), tmp_path / "link.jsonl"
    link.symlink_to(target)
    write_predictions(rows(1), link)
    assert link.is_symlink()
    assert ids(target) == ["1"]


def test_targets_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="its folder does not exist: create it first"):
        write_predictions(rows(1), tmp_path / "no" / "out.jsonl")
    with pytest.raises(OutputError, match="it is a folder; give a file"):
        write_predictions(rows(1), tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk() -> None:
    with pytest.raises(OutputError, match=r"^/dev/full: the disk is full: free some space"):
        write_predictions(rows(1), "/dev/full")
    assert Path("/dev/full").is_char_device()
    command = f"{sys.executable} -c '{STDOUT}' > /dev/full"
    result = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (
        4,
        "<stdout>: the disk is full: free some space and run again\n",
    )


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_a_write_that_fails_keeps_the_rows_before_it(tmp_path: Path, name: str) -> None:
    pytest.importorskip("resource", reason="this system has no limit on the size of a file")
    command = [sys.executable, "-c", LIMITED, str(tmp_path / name)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    kept, failure = result.stderr.splitlines()
    partial = tmp_path / f"{name}.partial"
    assert failure == f"{tmp_path / name}: cannot be written: File too large"
    said = re.fullmatch(
        rf"(up to )?(\d+) finished rows are kept in {re.escape(str(partial))}", kept
    )
    assert said
    about, count = said.groups()
    assert [entry.name for entry in tmp_path.iterdir()] == [partial.name]
    assert int(count) > 10
    if name.endswith(".gz"):  # What the cut stream still holds cannot be counted.
        assert about == "up to "
    else:
        assert ids(partial) == [str(i) for i in range(int(count))]


LIMITED = """
import random, resource, sys
from irr.documents import write_predictions
from irr.errors import OutputError
from irr.types import Prediction
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))
noise = random.Random(0)
predictions = (
    Prediction(str(i), "ok", guesses=(noise.randbytes(20).hex(),)) for i in range(100_000)
)
try:
    write_predictions(predictions, sys.argv[1])
except OutputError as error:
    sys.stderr.write(str(error) + chr(10))
"""


def test_a_device_is_written_and_not_replaced() -> None:
    assert write_predictions(rows(2), "/dev/null") == 2
    assert Path("/dev/null").is_char_device()


STDOUT = """
import sys
from irr.documents import write_predictions
from irr.errors import OutputError
from irr.types import Prediction
try:
    write_predictions((Prediction("é", "ok") for _ in range(100_000)), "-")
except OutputError as error:
    sys.stderr.write(str(error) + chr(10))
    sys.exit(error.exit_status)
"""


def test_the_reader_of_a_pipe_may_leave() -> None:
    command = [sys.executable, "-c", STDOUT]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, cwd=ROOT) as process:
        assert process.stdout
        assert process.stderr
        assert json.loads(process.stdout.readline())["id"] == "é"
        process.stdout.close()
        assert process.stderr.read() == b"<stdout>: its reader has gone\n"
    assert process.returncode == OutputError.exit_status


def test_standard_output_is_utf8_and_stays_open(
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    assert write_predictions([Prediction("é", "ok")], "-") == 1
    assert json.loads(capsysbinary.readouterr().out)["id"] == "é"
    assert not sys.stdout.closed
    with contextlib.redirect_stdout(io.StringIO()) as stream:
        write_predictions(rows(2), "-")
    assert len(stream.getvalue().splitlines()) == 2
