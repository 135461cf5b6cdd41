"""`irr.documents`: every format, every way a file can be wrong, streaming."""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
import sys
import tracemalloc
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
