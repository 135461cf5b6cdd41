"""`irr.labels`: every format, every way a file can be wrong, the packaged ICD-10-CM."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from irr.errors import LabelSetError
from irr.labels import LabelSet
from irr.types import Label

DATA = Path(__file__).parents[2] / "shared" / "data"

ESCO_COLUMNS = (
    "conceptType,conceptUri,preferredLabel,altLabels,status,definition,description\n"
    'Skill,http://e/1,use SQL,"query\nask databases",released,,"asks, gets"\n'
)


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def failure(path: str | Path) -> LabelSetError:
    with pytest.raises(LabelSetError) as caught:
        LabelSet.read(path)
    return caught.value


@pytest.mark.parametrize(
    ("name", "content", "labels"),
    [
        ("a.txt", "SQL\nuse Git", [Label("SQL", "SQL"), Label("use Git", "use Git")]),
        (
            "a.txt",
            "\ufeffSQL\r\nuse Git\r\n\r\n\n",
            [Label("SQL", "SQL"), Label("use Git", "use Git")],
        ),
        ("a.txt", "\u00a0 a\u2028b \u00a0\n", [Label("a\u2028b", "a\u2028b")]),
        ("a.TXT.gz", "e\u0301\n\u00e9\n", [Label("e\u0301", "e\u0301"), Label("\u00e9", "\u00e9")]),
        ("a.csv", 'Name\n"x, ""y"""\n\n', [Label('x, "y"', 'x, "y"')]),
        ("a.csv", "\ufeffid,label\r\n1,x\r\n,\r\n2,x", [Label("1", "x"), Label("2", "x")]),
        (
            "a.csv",
            "parent,SYNONYMS,title,notation, definition \nA|B,p|q | ,x,7,about x\n",
            [Label("7", "x", ("p", "q"), "about x", ("A", "B"))],
        ),
        (
            "a.csv.gz",
            ESCO_COLUMNS,
            [Label("http://e/1", "use SQL", ("query", "ask databases"), "asks, gets")],
        ),
        (
            "a.tsv",
            'code\tprefLabel\n1\tx, y\n2\t"p\tq"\n',
            [Label("1", "x, y"), Label("2", "p\tq")],
        ),
        (
            "a.jsonl",
            '{"id": 7, "name": " x ", "alternative_names": ["p|q", 3], "description": " d ",'
            ' "parents": ["A"], "other": 1}\n\n"plain"\n{"label": "L", "id": null}',
            [Label("7", "x", ("p|q", "3"), "d", ("A",)), Label("plain", "plain"), Label("L", "L")],
        ),
        ("a.jsonl.gz", '"\\ud83d\\ude00\\tx"\r\n', [Label("😀\tx", "😀\tx")]),
    ],
)
def test_formats(tmp_path: Path, name: str, content: str, labels: list[Label]) -> None:
    assert list(LabelSet.read(write(tmp_path, name, content))) == labels


def test_a_cell_may_be_longer_than_the_csv_module_allows(tmp_path: Path) -> None:
    long = "x" * 300_000
    limit = csv.field_size_limit(131_072)
    try:
        labels = LabelSet.read(write(tmp_path, "a.csv", f"id,name,description\n1,a,{long}\n"))
    finally:
        csv.field_size_limit(limit)
    assert labels[0].description == long


@pytest.mark.parametrize(
    ("name", "content", "line", "message"),
    [
        ("a.txt", "a\n\nb\n", 2, "empty name: fill it in or remove the line"),
        ("a.txt", "a\nb\na\n", 3, "the id 'a' is that of line 1 too: ids must be unique"),
        ("a.txt", "a\nb\rc\n", 2, "carriage return"),
        ("a.txt", "", None, "holds no labels"),
        ("a.txt", "\n \n", None, "holds no labels"),
        ("a.txt", "ab\nc\0d\n", 2, "NUL"),
        ("a.txt", b"ab\nc\xe4d\n", 2, "not UTF-8: byte 0xe4 at offset 4. Save"),
        ("a.txt", b"\xef\xbb\xbf\xe4\n", 1, "byte 0xe4 at offset 3"),
        ("a.txt", "ab".encode("utf-16"), 1, "looks like UTF-16"),
        ("a.txt", gzip.compress(b"ab"), 1, "looks like gzip"),
        ("a.txt.gz", b"\xe4", 1, "byte 0xe4 at offset 0"),
        ("a.csv", "", None, "is empty: the first row must name the columns"),
        ("a.csv", "id,name\n", None, "holds no labels"),
        ("a.csv", "id;name\n1;a\n", 1, "found: 'id;name' (are its cells separated by ';'?"),
        (
            "a.csv",
            "id,labels\n1,a\n",
            1,
            "no column for the label: name one label or name or preferredLabel or prefLabel "
            "or title; found: 'id', 'labels'",
        ),
        ("a.csv", "id,name,NAME\n", 1, "the column 'name' twice"),
        ("a.csv", "id,name\n1,a,b\n", 2, "has 3 cells where the header has 2"),
        ("a.csv", "id,name\n1,a\n2\n", 3, "has 1 cells where the header has 2"),
        ("a.csv", 'id,name\n1,"a\nb\n', 2, "a quote opened in this row is never closed"),
        ("a.csv", 'id,name\n1,"a"b\n', 2, "double the quotes"),
        ("a.csv", "id,name\n1,a\rb\n", 2, "carriage return"),
        ("a.csv", 'id,name\n1,"a\nb"\n1,c\n', 4, "the id '1' is that of line 2 too"),
        ("a.csv", "id,name\n1,\n", 2, "empty name"),
        ("a.csv", "id,name\n,a\n", 2, "empty id of 'a'"),
        ("a.csv", b"id,name\n1,\xff\n", 2, "byte 0xff at offset 10"),
        ("a.jsonl", '"a"\n{"name": "b"\n', 2, "malformed JSON: Expecting ',' delimiter at column"),
        ("a.jsonl", '["a"]', 1, 'expected {"id": …, "name": …} or a string, found a list'),
        (
            "a.jsonl",
            '{"id": 1, "nam": "a"}',
            1,
            "no \"name\" (or \"label\"): add it; found: 'id', 'nam'",
        ),
        ("a.jsonl", '{"name": 3}', 1, '"name" must be a string, not a number'),
        ("a.jsonl", '{"name": " "}', 1, "empty name"),
        ("a.jsonl", '{"id": true, "name": "a"}', 1, '"id" must be a string or number, not true'),
        ("a.jsonl", '{"id": "", "name": "a"}', 1, '"id" is empty'),
        (
            "a.jsonl",
            '{"name": "a", "description": []}',
            1,
            '"description" must be a string, not a list',
        ),
        (
            "a.jsonl",
            '{"name": "a", "parents": "b"}',
            1,
            '"parents" must be a list of strings, not a string',
        ),
        ("a.jsonl", '{"name": "a", "alternative_names": [{}]}', 1, "not an object"),
        ("a.jsonl", '"a"\n"\\ud800"', 2, "half a character (\\ud800)"),
        (
            "a.jsonl",
            '{"name": "a", "alternative_names": ["\\udfff"]}',
            1,
            "half a character (\\udfff)",
        ),
        ("a.jsonl", '"a\\u0000"', 1, "NUL"),
        ("a.jsonl", "[" * 100_000, 1, "JSON that cannot be read"),
        ("a.json", '["a"]', None, "choose it with --labels-format (txt, csv, tsv, jsonl, esco,"),
        ("a", "a", None, "cannot tell its format"),
    ],
)
def test_errors_name_file_and_line_and_the_cure(
    tmp_path: Path, name: str, content: str | bytes, line: int | None, message: str
) -> None:
    path = write(tmp_path, name, content)
    error = failure(path)
    assert (error.path, error.line) == (str(path), line)
    assert message in str(error)
    assert str(error).startswith(f"{path}:{line}: " if line else f"{path}: ")


@pytest.mark.parametrize("key", ["id", "name", "description", "alternative_names", "parents"])
@pytest.mark.parametrize(
    ("text", "complaint"), [("a\0", "NUL character"), ("a\udc80", "half a character (\\udc80)")]
)
def test_no_field_holds_nul_or_half_a_character(
    tmp_path: Path, key: str, text: str, complaint: str
) -> None:
    value = [text] if key in ("alternative_names", "parents") else text
    row = json.dumps({"id": "1", "name": "a", key: value})
    assert complaint in str(failure(write(tmp_path, "a.jsonl", row)))
    cells = {"id": "1", "name": "a", key: text}
    table = ",".join(cells) + "\n" + ",".join(cells.values()) + "\n"
    error = failure(write(tmp_path, "a.csv", table.encode(errors="surrogatepass")))
    assert error.line == 2
    assert ("NUL" if "\0" in text else "is not UTF-8: byte 0xed") in str(error)
    names = text.encode(errors="surrogatepass")
    assert failure(write(tmp_path, "a.txt", names)).line == 1


def test_ids_may_be_numbers(tmp_path: Path) -> None:
    lines = [f'{{"id": {id_}, "name": "a"}}' for id_ in ("7", "8.0", "1.5")]
    assert LabelSet.read(write(tmp_path, "a.jsonl", "\n".join(lines))).ids == ["7", "8", "1.5"]
    error = failure(write(tmp_path, "b.jsonl", '{"id": Infinity, "name": "a"}'))
    assert "finite number, not Infinity: write it in quotes" in str(error)


def test_broken_gzip(tmp_path: Path) -> None:
    cut, fake = tmp_path / "cut.txt.gz", tmp_path / "fake.txt.gz"
    cut.write_bytes(gzip.compress(b"a\nb\nc\n" * 1000)[:-9])
    fake.write_bytes(b"a\nb\n")
    assert "broken gzip" in str(failure(cut))
    assert failure(cut).line is not None
    assert (failure(fake).line, "broken gzip" in str(failure(fake))) == (1, True)


def test_a_missing_file_suggests_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path, "labels.txt", "a")
    assert "does not exist: did you mean labels.txt?" in str(failure(tmp_path / "label.txt"))
    assert "does not exist: check the path" in str(failure(tmp_path / "zzz.csv"))
    assert f"nor does its folder {tmp_path / 'no'}" in str(failure(tmp_path / "no" / "a.txt"))
    assert "is a folder: give a file" in str(failure(tmp_path))
    assert "cannot be read" in str(failure(tmp_path / ("x" * 300 + ".txt")))


LABELS = LabelSet([Label("b", "a"), Label("1", "b"), Label("2", "c"), Label("3", "c")])


def test_positions() -> None:
    assert (LABELS.ids, LABELS.names) == (["b", "1", "2", "3"], ["a", "b", "c", "c"])
    assert len(LABELS) == 4
    assert LABELS[3] == Label("3", "c")
    assert [LABELS.position_of(key) for key in ("1", "a", "b")] == [1, 0, 0]
    assert (LABELS.find("a"), LABELS.find("x")) == (0, None)


def test_all_the_labels_that_a_name_may_stand_for() -> None:
    found = {key: LABELS.find_all(key) for key in ("b", "1", "3", "a", "c", "x")}
    assert found == {"b": [0], "1": [1], "3": [3], "a": [0], "c": [2, 3], "x": []}
    LABELS.find_all("c").clear()  # What is handed out is the caller's own.
    assert LABELS.find_all("c") == [2, 3]


@pytest.mark.parametrize("ask", [LABELS.find, LABELS.position_of])
def test_an_ambiguous_name_names_the_ids(ask: object) -> None:
    with pytest.raises(LabelSetError, match="'c' names 2 labels: use one of their ids, '2', '3'"):
        ask("c")  # type: ignore[operator]


def test_an_unknown_label_names_the_nearest() -> None:
    labels = LabelSet([Label("1", "use databases"), Label("2", "sing")])
    with pytest.raises(LabelSetError, match="'use databazes': did you mean 'use databases'"):
        labels.position_of("use databazes")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "holds no labels"),
        ([Label("1", "")], "empty name"),
        ([Label("", "a")], "empty id"),
        ([Label("1", "a"), Label("1", "b")], "the id '1' is that of position 0 too"),
    ],
)
def test_labels_from_code_are_checked(labels: list[Label], message: str) -> None:
    with pytest.raises(LabelSetError, match=message):
        LabelSet(labels)


def test_content_hash_is_sha256_of_a_plain_serialization() -> None:
    labels = LabelSet([Label("1", "é", ("p",), "d", ("0",)), Label("2", "b")])
    content = '[["1","é",["p"],"d",["0"]],["2","b",[],"",[]]]'
    assert labels.content_hash == hashlib.sha256(content.encode()).hexdigest()


def test_content_hash_sees_every_field_and_the_order(tmp_path: Path) -> None:
    base = Label("1", "a", ("p", "q"), "d", ("0",))
    variants = [
        [base, Label("2", "b")],
        [Label("2", "b"), base],
        [Label("9", "a", ("p", "q"), "d", ("0",)), Label("2", "b")],
        [Label("1", "x", ("p", "q"), "d", ("0",)), Label("2", "b")],
        [Label("1", "a", ("q", "p"), "d", ("0",)), Label("2", "b")],
        [Label("1", "a", ("pq",), "d", ("0",)), Label("2", "b")],
        [Label("1", "a", ("p", "q"), "", ("0",)), Label("2", "b")],
        [Label("1", "a", ("p", "q"), "d", ()), Label("2", "b")],
    ]
    assert len({LabelSet(labels).content_hash for labels in variants}) == len(variants)
    a, b = write(tmp_path, "a.txt", "x\ny\n"), write(tmp_path, "b.csv", "name\nx\ny\n")
    assert LabelSet.read(a).content_hash == LabelSet.read(b).content_hash


NAMES = st.lists(
    st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\0")
        | st.sampled_from(',"\t|\n '),
        min_size=1,
    )
    .map(str.strip)
    .filter(bool),
    min_size=1,
    unique=True,
)


@given(NAMES)
def test_any_names_survive_jsonl(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    path = tmp_path_factory.mktemp("labels") / "a.jsonl"
    lines = [json.dumps({"name": n, "alternative_names": [n]}, ensure_ascii=False) for n in names]
    path.write_text("\n".join(lines), encoding="utf-8", newline="")
    assert list(LabelSet.read(path)) == [Label(name, name, (name,)) for name in names]


@given(NAMES, st.sampled_from([("a.csv", ","), ("a.tsv", "\t")]))
def test_any_names_survive_csv(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], form: tuple[str, str]
) -> None:
    path = tmp_path_factory.mktemp("labels") / form[0]
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter=form[1], quoting=csv.QUOTE_ALL)
        writer.writerows([("id", "label"), *((name, name) for name in names)])
    assert LabelSet.read(path).names == names


@given(st.lists(st.text(string.printable), min_size=1))
def test_the_hash_of_equal_labels_is_equal(texts: list[str]) -> None:
    labels = [Label(str(i), text or "-", (text,), text) for i, text in enumerate(texts)]
    assert LabelSet(labels).content_hash == LabelSet(list(labels)).content_hash


def test_esco() -> None:
    path = DATA / "esco" / "skills_en_label.txt"
    if not path.exists():
        pytest.skip("the ESCO labels are not here")
    labels = LabelSet.read(path)
    assert len(labels) == 13_896
    assert labels.names[0] == "manage musical staff"
    assert labels.ids[-1] == "position guardrails and toeboards"
    assert labels.position_of("position guardrails and toeboards") == 13_895
