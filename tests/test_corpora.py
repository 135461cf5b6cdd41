"""`irr.corpora`: documents with gold from other tools, and Annif's corpora back again."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from irr.corpora import read_corpus, write_annif_corpus
from irr.errors import ConfigurationError, DocumentError, LabelSetError
from irr.labels import LabelSet
from irr.types import Document, Label

LABELS = LabelSet([Label("http://e/1", "cats"), Label("http://e/2", "animals")])
FULL_TEXTS = {
    "a.txt": "A cat.\nIt purrs.\n",
    "a.tsv": "<http://e/1>\tcats\n<http://e/2>\tanimals\n",
    "b.txt": "Nothing.",
    "b.tsv": "",
    "c.txt": "Not indexed.",
}
TSV = "A cat.\t<http://e/1> <http://e/2>\nNothing.\t\n"
CSV = 'document_id,text,subject_uris\nx,"A cat,\nit purrs.",http://e/1 http://e/2\ny,Nothing.,\n'
JSONL = (
    '{"document_id": "x", "text": "A cät.", "subjects": [{"uri": "http://e/1"}]}\n'
    '{"document_id": "y", "text": "Nothing.", "subjects": []}\n'
    '{"document_id": "z", "text": "Not indexed."}\n'
)


def put(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    data = content.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def folder_of(path: Path, files: dict[str, str]) -> Path:
    path.mkdir()
    for name, content in files.items():
        put(path, name, content)
    return path


def test_annif_full_texts(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "corpus", FULL_TEXTS)
    put(folder, "d.txt", "Keys.")
    put(folder, "d.key", "cats\r\nanimals\r\n")
    assert list(read_corpus(folder)) == [
        Document("a", "A cat.\nIt purrs.\n", ("http://e/1", "http://e/2")),
        Document("b", "Nothing.", ()),
        Document("c", "Not indexed."),
        Document("d", "Keys.", ("cats", "animals")),
    ]


def test_annif_short_texts(tmp_path: Path) -> None:
    both = ("http://e/1", "http://e/2")
    assert list(read_corpus(put(tmp_path, "a.tsv.gz", TSV))) == [
        Document("1", "A cat.", both),
        Document("2", "Nothing.", ()),
    ]
    assert list(read_corpus(put(tmp_path, "a.csv", CSV))) == [
        Document("x", "A cat,\nit purrs.", both),
        Document("y", "Nothing.", ()),
    ]
    assert list(read_corpus(put(tmp_path, "a.jsonl", "\ufeff" + JSONL))) == [
        Document("x", "A cät.", ("http://e/1",)),
        Document("y", "Nothing.", ()),
        Document("z", "Not indexed."),
    ]


@pytest.mark.parametrize(("name", "content"), [("a.tsv", TSV), ("a.csv", CSV), ("a.jsonl", JSONL)])
def test_annif_short_texts_in_and_out_unchanged(tmp_path: Path, name: str, content: str) -> None:
    path = put(tmp_path, name, content)
    write_annif_corpus(read_corpus(path), tmp_path / f"b-{name}")
    assert (tmp_path / f"b-{name}").read_bytes() == path.read_bytes()


def test_annif_full_texts_in_and_out_unchanged(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", FULL_TEXTS)
    write_annif_corpus(read_corpus(folder), tmp_path / "out", labels=LABELS)
    written = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert written == FULL_TEXTS


def test_gold_by_name_is_written_by_uri(tmp_path: Path) -> None:
    documents = [Document("x", "A cat.", ("cats",))]
    write_annif_corpus(documents, tmp_path / "a.tsv", labels=LABELS)
    assert (tmp_path / "a.tsv").read_text() == "A cat.\t<http://e/1>\n"
    with pytest.raises(LabelSetError, match="no label has the id or name 'dogs'"):
        write_annif_corpus([Document("x", "", ("dogs",))], tmp_path / "b.tsv", labels=LABELS)


@pytest.mark.parametrize(
    ("document", "target", "message"),
    [
        (Document("x", "a\tb", ()), "a.tsv", "has a tab or line break: write csv"),
        (Document("x", "a", ("use SQL",)), "a.tsv", "'use SQL' of document 'x' is no URI"),
        (Document("../x", "a", ()), "a", "cannot be the name of a file"),
    ],
)
def test_what_annif_cannot_hold(
    tmp_path: Path, document: Document, target: str, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        write_annif_corpus([document], tmp_path / target)
    assert not (tmp_path / "a.tsv").exists()


def test_prodigy_choices(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = [{"id": "S1", "text": "use SQL"}, {"id": "S2", "text": "sing"}]
    rows = [
        {"text": "SQL", "options": options, "accept": ["S1"], "answer": "accept", "_task_hash": 1},
        {"text": "nothing", "options": options, "accept": [], "answer": "accept"},
        {"text": "skipped", "options": options, "accept": ["S2"], "answer": "ignore"},
        {"text": "cats", "cats": {"S1": 0.2, "S2": 1.0, "S3": True}},
    ]
    path = put(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert [(d.text, d.gold) for d in read_corpus(path)] == [
        ("SQL", ("S1",)),
        ("nothing", ()),
        ("cats", ("S2", "S3")),
    ]
    assert "1 rows were ignored or rejected" in caplog.text


def test_prodigy_yes_or_no_for_each_label(tmp_path: Path) -> None:
    answers = [("a", "S1", "accept"), ("b", "S1", "reject"), ("a", "S2", "accept")]
    rows = [{"text": text, "label": label, "answer": answer} for text, label, answer in answers]
    path = put(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    found = list(read_corpus(path))
    assert found == [Document("1", "a", ("S1", "S2")), Document("2", "b", ())]


def test_label_studio(tmp_path: Path) -> None:
    def choose(*choices: str, **more: object) -> dict[str, object]:
        value = {"choices": list(choices)}
        return {"result": [{"type": "choices", "value": value}], **more}

    ways = {"taxonomy": [["skills", "use SQL"], ["knowledge"]]}
    tasks = [
        {"id": 7, "data": {"text": "a"}, "annotations": [choose("sing", "bake")]},
        {"id": 8, "data": {"text": "b"}, "annotations": [{"result": [{"value": ways}]}]},
        {
            "id": 9,
            "data": {"text": "c"},
            "annotations": [
                choose("x", was_cancelled=True),
                choose("y"),
                choose("z", ground_truth=True),
            ],
        },
        {"id": 10, "data": {"text": "d"}, "annotations": []},
    ]
    path = put(tmp_path, "a.json", json.dumps(tasks, indent=1))
    assert list(read_corpus(path)) == [
        Document("7", "a", ("sing", "bake")),
        Document("8", "b", ("use SQL", "knowledge")),
        Document("9", "c", ("z",)),
        Document("10", "d"),
    ]


def test_huggingface(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    classes = datasets.ClassLabel(names=["World", "Sports"])
    features = datasets.Features({"body": datasets.Value("string"), "label": classes})
    content = {"body": ["a", "b"], "label": [1, -1]}
    rows = datasets.Dataset.from_dict(content, features=features)
    rows.save_to_disk(tmp_path / "one")
    expected = [Document("1", "a", ("Sports",)), Document("2", "b")]
    assert list(read_corpus(tmp_path / "one", text_column="body")) == expected
    with pytest.raises(DocumentError, match="no column 'text': name one of body, label"):
        list(read_corpus(tmp_path / "one"))
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "two")
    with pytest.raises(DocumentError, match=r"give the folder of one \(test, train\)"):
        list(read_corpus(tmp_path / "two"))


@pytest.mark.parametrize(
    ("form", "name", "content", "line", "message"),
    [
        ("annif-tsv", "a.tsv", "a\t<a:1>\nb\n", 2, "has no tab"),
        ("annif-csv", "a.csv", "text,uris\n", 1, "no column for the subject_uris"),
        ("annif-jsonl", "a.jsonl", '{"text": "a", "subjects": ["x"]}', 1, '"subjects" must be'),
        ("annif-jsonl", "a.jsonl", '{"text": "a", "subjects": [{}]}', 1, "must be a string"),
        ("annif-jsonl", "a.jsonl", '{"subjects": []}', 1, "no \"text\": add it; found: 'subjects'"),
        ("prodigy", "a.jsonl", '{"text": "a", "accept": "x"}', 1, '"accept" must be a list'),
        ("prodigy", "a.jsonl", '{"text": "a"}', 1, "which labels apply?"),
        ("label-studio", "a.json", "[\n{]", 2, "malformed JSON"),
        ("label-studio", "a.json", "{}", None, "must be a list of tasks"),
        ("label-studio", "a.json", '[{"text": "a"}]', None, 'no text under "data", "text"'),
        (None, "a.jsonl", '{"id": 1, "text": "a", "labels": []}', None, "none of the formats"),
        ("annif-folder", "a.txt", "a", None, "is no folder"),
    ],
)
def test_errors(
    tmp_path: Path, form: str | None, name: str, content: str, line: int | None, message: str
) -> None:
    path = put(tmp_path, name, content)
    with pytest.raises(DocumentError) as caught:
        list(read_corpus(path, form))
    assert (caught.value.path, caught.value.line) == (str(path), line)
    assert message in str(caught.value)


def test_an_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no corpus format 'x': name one of annif-folder"):
        read_corpus(put(tmp_path, "a.txt", ""), "x")


@pytest.mark.parametrize("name", ["a", "a.tsv", "a.csv"])
def test_a_text_that_begins_as_a_byte_order_mark_does(tmp_path: Path, name: str) -> None:
    documents = [Document("1", "\ufeffA cat.", ("http://e/1",))]
    write_annif_corpus(documents, tmp_path / name)
    assert list(read_corpus(tmp_path / name)) == documents


def test_a_carriage_return_in_annif_csv(tmp_path: Path) -> None:
    documents = [Document("1", "A cat.\rIt purrs.", ("http://e/1",))]
    write_annif_corpus(documents, tmp_path / "a.csv")
    assert list(read_corpus(tmp_path / "a.csv")) == documents


TASK = {"data": {"text": "a"}}


@pytest.mark.parametrize(
    ("annotations", "gold"),
    [
        (None, None),
        ([{"result": None}], ()),
        ([{"result": [{"value": None}, {"value": {"choices": None, "taxonomy": None}}]}], ()),
    ],
)
def test_nulls_of_label_studio(
    tmp_path: Path, annotations: object, gold: tuple[str, ...] | None
) -> None:
    path = put(tmp_path, "a.json", json.dumps([{**TASK, "annotations": annotations}]))
    assert list(read_corpus(path)) == [Document("1", "a", gold)]


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        (3, '"annotations" must be a list, not a number'),
        ([3], '"annotations" must hold objects, not a number'),
        ([{"result": "x"}], '"result" must be a list, not a string'),
        ([{"result": [{"value": "x"}]}], '"value" must hold objects, not a string'),
        ([{"result": [{"value": {"choices": "Dogs"}}]}], '"choices" must be a list of strings'),
        ([{"result": [{"value": {"choices": [["x"]]}}]}], 'an entry of task 1: "choices" must'),
        ([{"result": [{"value": {"taxonomy": ["x"]}}]}], '"taxonomy" must be a list of strings'),
    ],
)
def test_label_studio_of_other_types(tmp_path: Path, annotations: object, message: str) -> None:
    path = put(tmp_path, "a.json", json.dumps([{**TASK, "annotations": annotations}]))
    with pytest.raises(DocumentError) as caught:
        list(read_corpus(path))
    assert "task 1" in str(caught.value)
    assert message in str(caught.value)


def test_scores_of_prodigy_are_numbers(tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", '{"text": "a", "cats": {"Cats": "high"}}')
    with pytest.raises(DocumentError, match=r"a\.jsonl:1: .*the score of 'Cats' must be a number"):
        list(read_corpus(path))
