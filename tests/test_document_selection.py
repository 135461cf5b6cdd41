"""Documents with selections of their own, on every way that a document takes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import HashEncoder
from scripted_server import Call, ScriptedServer

import irr.build
from irr.build import LMChoice, build_program
from irr.documents import read_documents
from irr.errors import ConfigurationError, DocumentError
from irr.journal.state import extend_digest
from irr.labels import LabelSet
from irr.program import InferRetrieveRank
from irr.selection import Selection, selection_of
from irr.types import Document, Label, Prediction

Serve = Callable[..., ScriptedServer]
Build = Callable[..., InferRetrieveRank]

LABELS = LabelSet(
    [
        Label("A", "bread"),
        Label("A1", "bread of wheat", parents=("A",)),
        Label("A2", "bread of barley", parents=("A",)),
        Label("B", "bicycle"),
        Label("B1", "bicycle brakes", parents=("B",)),
    ]
)
EVERY = set(LABELS.ids)
# For each document the labels that it may have.
REQUESTS = [
    (Selection(include=("A",)), {"A", "A1", "A2"}),
    (Selection(exclude=("A",)), {"B", "B1"}),
    (None, EVERY),
    (Selection(exclude=("only:A", "bicycle*")), {"A1", "A2"}),
    (Selection(include=("re:^b",)), EVERY),
    (Selection(include=("A", "B1"), exclude=("A2",)), {"A", "A1", "B1"}),
]


@pytest.fixture
def program_with(hash_encoder: HashEncoder, monkeypatch: pytest.MonkeyPatch) -> Build:
    monkeypatch.setattr(irr.build, "load_encoder", lambda *args, **options: hash_encoder)

    def build(server: ScriptedServer | None = None) -> InferRetrieveRank:
        lm = LMChoice("tiny", server.url, timeout=5, in_flight=8) if server else "none"
        return build_program(LABELS, lm=lm)

    return build


def good(call: Call) -> str:
    if call.stage == "infer":
        return json.dumps({"guesses": ["bread", "bicycle"]})
    return json.dumps({"ranking": [1]})


def documents(count: int) -> list[Document]:
    return [
        Document(f"d{number}", f"bread {number}", selection=REQUESTS[number % len(REQUESTS)][0])
        for number in range(count)
    ]


def ids(prediction: Prediction) -> set[str]:
    return {label.id for label in prediction.labels}


def test_each_document_of_a_block_has_its_own_labels(program_with: Build) -> None:
    for number, prediction in enumerate(program_with().predict_many(documents(100))):
        assert ids(prediction) == REQUESTS[number % len(REQUESTS)][1]


def test_each_document_of_a_gathered_call_has_its_own_labels(
    program_with: Build, serve: Serve
) -> None:
    server = serve(good)
    predictions = list(program_with(server).predict_many(documents(60)))
    for number, prediction in enumerate(predictions):
        assert ids(prediction) == REQUESTS[number % len(REQUESTS)][1]
    names = {label.id: label.name for label in LABELS}
    for call in server.calls:
        if call.stage == "rank":
            number = int(call.text.split()[1])
            allowed = REQUESTS[number % len(REQUESTS)][1]
            assert set(call.candidates) == {names[id_] for id_ in allowed}


def test_awaited_documents_have_their_own_labels(program_with: Build, serve: Serve) -> None:
    program = program_with(serve(good))

    async def ask() -> list[Prediction]:
        return await asyncio.gather(*map(program.apredict, documents(12)))

    for number, prediction in enumerate(asyncio.run(ask())):
        assert ids(prediction) == REQUESTS[number % len(REQUESTS)][1]


def test_a_document_cannot_have_what_the_run_excludes(program_with: Build) -> None:
    program = program_with().variant(selection=Selection(exclude=("A1",)))
    own = [Selection(include=("A", "B1")), Selection(exclude=("B",)), None]
    rows = [Document(str(n), "bread", selection=each) for n, each in enumerate(own)]
    found = [ids(prediction) for prediction in program.predict_many(rows)]
    assert found == [{"A", "A2", "B1"}, {"A", "A2"}, EVERY - {"A1"}]


def test_a_text_with_entries(program_with: Build) -> None:
    program = program_with()
    assert ids(program.predict("bread", include=["A", "B"], exclude=["only:B"])) == EVERY - {"B"}
    with pytest.raises(ConfigurationError, match='"include" must be a list'):
        program.predict("bread", include="A")


BAD = [
    ({"include": ["A", "braed"]}, "no label has the id or name 'braed'"),
    ({"exclude": ["A", "B"]}, "the selection leaves no label"),
    ({"include": ["re:^b"]}, "regular expressions are not taken here"),
    ({"include": ["@labels.txt"]}, "no label has the id or name '@labels.txt'"),
    ({"include": ["zz*"]}, "'zz*' matches no label"),
]


@pytest.mark.parametrize("with_lm", [True, False])
def test_a_selection_that_cannot_be_is_a_row_with_an_error(
    program_with: Build, serve: Serve, with_lm: bool
) -> None:
    server = serve(good)
    program = program_with(server if with_lm else None)
    bad = [
        Document(f"bad {n}", "refused", selection=selection_of(row))
        for n, (row, _) in enumerate(BAD)
    ]
    first, *rows, last = program.predict_many([*documents(1), *bad, *documents(2)[1:]])
    assert (first.id, first.status, last.id, last.status) == ("d0", "ok", "d1", "ok")
    for number, (row, (_, message)) in enumerate(zip(rows, BAD, strict=True)):
        assert (row.id, row.status, row.labels) == (f"bad {number}", "error", ())
        assert row.error is not None
        assert row.error[0] == "ConfigurationError"
        assert message in row.error[1]
    assert not any("refused" in call.text for call in server.calls)


def test_what_is_wrong_with_the_run_is_no_row(program_with: Build) -> None:
    program = program_with().variant(selection=Selection(exclude=("braed",)))
    with pytest.raises(ConfigurationError, match="did you mean 'bread'"):
        list(program.predict_many(documents(3)))


def test_leaves_of_a_documents_selection(program_with: Build) -> None:
    program = program_with().variant(prefer="leaf")
    rows = [Document("1", "bread", selection=Selection(include=each)) for each in [("A",), ("B",)]]
    assert [ids(p) for p in program.predict_many(rows)] == [{"A1", "A2"}, {"B1"}]
    (row,) = program.predict_many([Document("1", "x", selection=Selection(include=("only:A",)))])
    assert row.error is not None
    assert "leaves no leaf" in row.error[1]


def test_a_parent_that_a_document_excludes_takes_no_place(program_with: Build) -> None:
    program = program_with().variant(prefer="ancestor-when-unsure")
    barred = Document("1", "bread of", selection=Selection(exclude=("only:A",)))
    free, kept = program.predict_many([Document("2", "bread of"), barred])
    assert "A" in ids(free)
    assert not {"A1", "A2"} & ids(free)
    assert {"A1", "A2"} <= ids(kept)
    assert "A" not in ids(kept)


OWN = Selection(("A", "B b"), ("A1",), trusted=False)
JSONL = '{"text": "t", "include": ["A", " B b "], "exclude": ["A1"]}\n{"text": "u", "exclude": []}'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", JSONL),
        ("a.csv", "Include,text,exclude\nA| B b,t,A1\n,u,|\n"),
        ("a.tsv", "text\tinclude\tEXCLUDE\nt\tA|B b\tA1\nu\t\t\n"),
    ],
)
def test_files_of_documents_with_selections(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert list(read_documents(tmp_path / name)) == [
        Document("1", "t", selection=OWN),
        Document("2", "u"),
    ]


@pytest.mark.parametrize("lists", [True, False])
def test_parquet_with_selections(tmp_path: Path, lists: bool) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    include = [["A", "B b"], None] if lists else ["A| B b", ""]
    exclude = [["A1"], []] if lists else ["A1", None]
    columns = {"text": ["t", "u"], "include": include, "Exclude": exclude}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert list(read_documents(tmp_path / "a.parquet")) == [
        Document("1", "t", selection=OWN),
        Document("2", "u"),
    ]


def test_a_text_may_have_the_name_of_a_selection(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "a.jsonl").write_text('{"include": "t", "exclude": ["A1"]}')
    (tmp_path / "a.csv").write_text("Include,exclude\nt,A1\n")
    pq.write_table(pa.table({"INCLUDE": ["t"], "exclude": ["A1"]}), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        (document,) = read_documents(tmp_path / name, text_column="include")
        own = Selection(exclude=("A1",), trusted=False)
        assert document == Document("1", "t", selection=own)


@pytest.mark.parametrize(
    "value", ['"A"', "[1]", '[" "]', '{"A": 1}', "true", "0", '""', r'["\ud800"]', r'["\u0000"]']
)
def test_a_malformed_selection_names_the_line(tmp_path: Path, value: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "t"}}\n{{"text": "u", "exclude": {value}}}')
    with pytest.raises(DocumentError) as caught:
        list(read_documents(path))
    assert (caught.value.path, caught.value.line) == (str(path), 2)


def test_a_parquet_column_of_numbers_is_no_selection(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"text": ["t"], "include": [[1]]}), tmp_path / "a.parquet")
    with pytest.raises(DocumentError, match="the column 'include' holds list<"):
        list(read_documents(tmp_path / "a.parquet"))


def test_a_selection_is_part_of_what_a_row_is_of() -> None:
    chosen = [
        None,
        Selection(include=("a",)),
        Selection(exclude=("a",)),
        Selection(include=("a", "b")),
        Selection(include=("a",), exclude=("b",)),
    ]
    digests = {extend_digest(b"", Document("1", "t", selection=each)) for each in chosen}
    assert len(digests) == len(chosen)
    # Runs that were begun when documents had no selections go on.
    known = "fcc8809893c08d1e04a5a90e1830504f"
    assert extend_digest(b"", Document("1", "t", selection=Selection())).hex() == known
