"""`irr.documents`: every format, every way a file can be wrong, streaming."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from irr.documents import documents_from_texts, read_documents, read_gold
from irr.errors import ConfigurationError, DocumentError
from irr.types import Document

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
        (
            "a.jsonl",
            "\n".join(f'{{"id": {id_}, "text": ""}}' for id_ in ("7.0", "1.5", "-0.0", "2e-7")),
            [Document(id_, "") for id_ in ("7", "1.5", "0", "2e-07")],
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
    text = write(tmp_path, "texts/a.txt", "x")
    for plain in (text, text.parent):
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


CLOSED = """
import sys
from irr.documents import read_documents
from irr.errors import DocumentError
try:
    read_documents("-")
except DocumentError as error:
    sys.stdout.write(str(error))
"""


def test_standard_input_that_is_closed() -> None:
    if not Path("/bin/sh").exists():
        pytest.skip("this system has no shell")
    command = ["/bin/sh", "-c", 'exec "$0" -c "$1" <&-', sys.executable, CLOSED]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == (
        "<stdin>: is not open: pipe or redirect a file to it, or name one",
        "",
    )


def test_a_stand_in_for_standard_input_without_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    for stand_in in (None, io.StringIO("x")):
        monkeypatch.setattr("sys.stdin", stand_in)
        with pytest.raises(DocumentError, match=r"^<stdin>: is not open"):
            read_documents("-")


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="this system has no /dev/fd")
@pytest.mark.parametrize(
    ("content", "documents"),
    [
        (b"one\ntwo\n", [Document("1", "one"), Document("2", "two")]),
        (b'{"id": "a", "text": "x"}\n', [Document("a", "x")]),
    ],
)
def test_process_substitution_is_read_like_standard_input(
    tmp_path: Path, content: bytes, documents: list[Document]
) -> None:
    reader, writer = os.pipe()
    os.write(writer, content)
    os.close(writer)
    try:
        assert list(read_documents(f"/dev/fd/{reader}")) == documents
    finally:
        os.close(reader)
    path = write(tmp_path, "no_ending", content)
    with path.open("rb") as stream:  # As "/dev/stdin" is after "< no_ending".
        assert list(read_documents(f"/dev/fd/{stream.fileno()}")) == documents
    with pytest.raises(DocumentError, match="cannot tell its format"):
        read_documents(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_is_read_by_its_ending_if_it_has_one(tmp_path: Path) -> None:
    content = b"text,labels\nx,b\n"
    for name, documents in (
        ("pipe", [Document("1", "text,labels"), Document("2", "x,b")]),
        ("pipe.csv", [Document("1", "x", ("b",))]),
    ):
        os.mkfifo(tmp_path / name)
        thread = threading.Thread(target=(tmp_path / name).write_bytes, args=(content,))
        thread.start()
        assert list(read_documents(tmp_path / name)) == documents
        thread.join()


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="this system has no /dev/null")
def test_a_device_is_read_like_standard_input() -> None:
    assert list(read_documents("/dev/null")) == []


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
        (
            "a.jsonl",
            '{"text": "x", "id": NaN}',
            1,
            '"id" must be a string or finite number, not NaN: write it in quotes',
        ),
        ("a.jsonl", '{"text": "x", "id": -1e999}', 1, "finite number, not -Infinity"),
        ("a.jsonl", '{"text": "x", "id": true}', 1, "a string or number, not true or false"),
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
        ("a.jsonl", '{"text": "x", "labels": ["\\ud800"]}', 1, "half a character"),
        ("a.jsonl", '{"text": "\\u0000"}', 1, "NUL"),
        ("a.jsonl", '{"text": "x", "id": "\\u0000"}', 1, "NUL"),
        ("a.jsonl", '{"text": "x", "labels": ["\\u0000"]}', 1, "NUL"),
        ("a.csv", b"id,text,labels\n1,x,\xed\xa0\x80\n", 2, "byte 0xed at offset 19"),
        ("a.csv", "id,text,labels\n1,x,\0\n", 2, "NUL"),
        ("a.jsonl", '{"text": "x"}\n\0', 2, "NUL"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "\xff"}', 2, "byte 0xff at offset 24"),
        ("a.jsonl", '{"id": 1, "text": ""}\n{"id": "1", "text": ""}', 2, "the id '1' came before"),
        (
            "a.jsonl",
            '{"id": 1, "text": ""}\n{"id": 1.0, "text": ""}',
            2,
            "the id '1' came before: ids must be unique; rename one",
        ),
        (
            "a.jsonl",
            '{"id": "2", "text": ""}\n{"text": ""}',
            2,
            "the id '2' came before: a row without an id is given its number as id; "
            "give every row an id, or none",
        ),
        (
            "a.jsonl",
            '{"text": ""}\n{"text": ""}\n{"id": "2", "text": ""}',
            3,
            "the id '2' came before: a row without an id is given its number as id",
        ),
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
        (
            "a.json",
            "{}",
            None,
            "must end in .jsonl, .csv, .tsv, .txt or .parquet; or send it to standard input and "
            "give '-'",
        ),
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
    (tmp_path / "ads.jsonl").rename(tmp_path / "ads.md")
    with pytest.raises(DocumentError, match=r"holds no \.txt file, and no \.jsonl or"):
        read_documents(tmp_path)


def test_a_folder_of_rows_is_read_file_by_file(tmp_path: Path) -> None:
    write(tmp_path, "b.jsonl", '{"id": "b1", "text": "x"}\n{"id": 2, "text": "y"}')
    write(tmp_path, "a/z.csv.gz", "id,body\na1,s\n")
    write(tmp_path, "a.TSV", "id\tbody\nt\tt, u\n")
    write(tmp_path, "b-0.jsonl", '{"id": "b0", "text": "w"}')
    write(tmp_path, "read.me", b"\xff")
    write(tmp_path, ".hidden.jsonl", "{")
    for name in ("b.jsonl", "b-0.jsonl"):
        path = tmp_path / name
        path.write_text(path.read_text().replace('"text"', '"body"'))
    assert list(read_documents(tmp_path, text_column="body")) == [
        Document("t", "t, u"),
        Document("a1", "s"),
        Document("b0", "w"),
        Document("b1", "x"),
        Document("2", "y"),
    ]


def test_rows_without_ids_are_numbered_through_a_folder(tmp_path: Path) -> None:
    write(tmp_path, "1.jsonl", '{"text": "a"}\n{"text": "b"}')
    write(tmp_path, "2.csv", "text\nc\n")
    write(tmp_path, "3.jsonl", '{"text": "d"}')
    assert [document.id for document in read_documents(tmp_path)] == ["1", "2", "3", "4"]
    last = write(tmp_path, "4.jsonl", '{"id": "5", "text": "e"}\n{"id": 3, "text": "f"}')
    with pytest.raises(DocumentError, match="the id '3' came before: a row without an id") as error:
        list(read_documents(tmp_path))
    assert (error.value.path, error.value.line) == (str(last), 2)


def test_an_id_may_not_come_again_in_another_file_of_a_folder(tmp_path: Path) -> None:
    write(tmp_path, "1.jsonl", '{"id": "a", "text": ""}')
    second = write(tmp_path, "2.jsonl", '\n{"id": "b", "text": ""}\n{"id": "a", "text": ""}')
    with pytest.raises(DocumentError, match="the id 'a' came before: ids must") as error:
        list(read_documents(tmp_path))
    assert (error.value.path, error.value.line) == (str(second), 3)


def test_a_folder_is_of_one_kind(tmp_path: Path) -> None:
    write(tmp_path, "a/1.jsonl", "")
    write(tmp_path, "2.txt", "")
    with pytest.raises(DocumentError) as error:
        read_documents(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: holds texts (2.txt) and files of rows (a/1.jsonl): give a folder of one "
        "kind, or a file"
    )


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
        with pytest.raises(DocumentError, match="has no labels") as caught:
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


PEAK = """
import re, sys
from irr.documents import read_documents
count = sum(1 for _ in read_documents(sys.argv[1]))
peak = re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]
sys.stdout.write(f"{count} {peak}")
"""


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="this system does not tell a process's peak"
)
def test_memory_does_not_grow_with_the_number_of_documents(tmp_path: Path) -> None:
    peaks = []
    for count in (10_000, 200_000):
        path = tmp_path / f"{count}.jsonl"
        with path.open("w") as stream:
            stream.writelines(f'{{"id": "document {i}", "text": "x"}}\n' for i in range(count))
        command = [sys.executable, "-c", PEAK, str(path)]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        read, peak = map(int, result.stdout.split())
        assert read == count
        peaks.append(peak)
    assert peaks[1] < 1.05 * peaks[0]


def test_documents_may_be_closed_by_another_thread(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"id": "a", "text": ""}\n{"id": "b", "text": ""}')
    documents = read_documents(path)
    thread = threading.Thread(target=lambda: next(documents))
    thread.start()
    thread.join()
    assert next(documents) == Document("b", "")
    documents.close()  # type: ignore[attr-defined]
    assert list(documents) == []


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


def test_gold_of_other_tools_is_read(tmp_path: Path) -> None:
    path = tmp_path / "corpus.tsv"
    path.write_text("a text\t<http://x/1> <http://x/2>\nanother\t<http://x/1>\n")
    assert [document.gold for document in read_gold(path)] == [
        ("http://x/1", "http://x/2"),
        ("http://x/1",),
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"text": "a", "label": "x"}, {"text": "b", "answer": "reject"}], "has no labels"),
        ([], "holds no documents"),
    ],
)
def test_corpora_of_other_tools_must_be_labelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[dict[str, str]], message: str
) -> None:
    def corpus(*_: object, **__: object) -> Iterator[Document]:
        return (Document(row["text"], row["text"], None) for row in lines)

    path = tmp_path / "corpus.tsv"
    path.write_text("a text\t<http://x/1>\n")
    monkeypatch.setattr("irr.corpora.read_corpus", corpus)
    with pytest.raises(DocumentError, match=message):
        list(read_gold(path))


def test_ids_of_other_tools_must_be_unique(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "corpus.tsv"
    path.write_text("a text\t<http://x/1>\n")
    twice = [Document("1", "a", ("x",)), Document("1", "b", ("x",))]
    monkeypatch.setattr("irr.corpora.read_corpus", lambda *_, **__: iter(twice))
    with pytest.raises(DocumentError, match="came before"):
        list(read_gold(path))
