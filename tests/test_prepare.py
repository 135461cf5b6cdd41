"""The preparation scripts: counts on the real data, and the protocol on small files."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RAW_ESCO = Path(__file__).parents[2] / "shared" / "data" / "esco"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "eval" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


esco = script("prepare_esco")
icd = script("prepare_icd10cm")


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "skills_en_label.txt").write_text(
        " use SQL\nJava\nuse tools, with care", encoding="utf-8"
    )
    (folder / "esco_priors.json").write_text('{"Java ": 0.5, "gone": 0.1}', encoding="utf-8")
    annotations = (
        "sentence,span,sub_span,label\n"
        "Knows SQL\x85 and Java,SQL,, use SQL\nother,x,,LABEL NOT PRESENT\n"
        '"Knows SQL\x85 and Java",Java,,Java\nKnows SQL\x85 and Java,SQL,,use SQL\n'
        "lone,x,,UNDERSPECIFIED\nlone,y,,COBOL\n"
    )
    (folder / "house_test_annotations.csv").write_text(annotations, encoding="utf-8")
    return folder


def test_esco_protocol(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert esco.main(["--source", str(raw), "--output", str(out)]) == 0
    names = ["use SQL", "Java", "use tools, with care"]
    assert rows(out / "labels.jsonl") == [{"id": name, "name": name} for name in names]
    assert json.loads((out / "priors.json").read_text(encoding="utf-8")) == {"Java": 0.5}
    assert rows(out / "house_test.jsonl") == [
        {"id": "house_test-1", "text": "Knows SQL\x85 and Java", "labels": ["use SQL", "Java"]},
        {"id": "house_test-2", "text": "lone", "labels": ["COBOL"]},
    ]
    said = capsys.readouterr().err
    assert "2 documents of 6 rows; dropped 2 rows and 1 documents without a label" in said
    assert "not in the label set, kept: 'COBOL', 1 documents" in said
    assert "1 priors; 1 dropped" in said


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("skills_en_label.txt", b"a\nb\na\n", "skills_en_label.txt:3: label 'a' is already"),
        ("skills_en_label.txt", b"\n \n", "holds no label"),
        ("skills_en_label.txt", b"caf\xe9", "is not UTF-8 (byte 3)"),
        ("esco_priors.json", b"[1]", "must be one JSON object"),
        ("esco_priors.json", b'{"a": null}', "must be one JSON object"),
        ("house_test_annotations.csv", b"sentence,span\nx,y\n", "lacks the column 'label'"),
        ("house_test_annotations.csv", b"sentence,label\nx\n", "csv:2: a row needs"),
    ],
)
def test_esco_errors(
    raw: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, message: str
) -> None:
    (raw / name).write_bytes(content)
    out = raw.parent / "out"
    assert esco.main(["--source", str(raw), "--output", str(out)]) == 3
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not out.exists()


def test_esco_without_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert esco.main(["--source", str(tmp_path), "--output", str(tmp_path / "out")]) == 3
    assert "skills_en_label.txt: no such file" in capsys.readouterr().err


@pytest.mark.skipif(not RAW_ESCO.is_dir(), reason="the raw ESCO files are not here")
def test_esco_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert esco.main(["--source", str(RAW_ESCO), "--output", str(tmp_path)]) == 0
    labels = {row["id"] for row in rows(tmp_path / "labels.jsonl")}
    assert len(labels) == 13_896
    for name, documents in (("house_validation", 61), ("tech_validation", 75)):
        gold = rows(tmp_path / f"{name}.jsonl")
        assert len(gold) == len({row["id"] for row in gold}) == documents
        assert all(row["labels"] and labels.issuperset(row["labels"]) for row in gold)
    assert "kept" not in capsys.readouterr().err


def test_icd10cm(tmp_path: Path) -> None:
    pytest.importorskip("simple_icd_10_cm")
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        arguments = ["--output", str(tmp_path / name), "--seed", seed, "--notes", "50"]
        assert icd.main(arguments) == 0
    labels = {row["id"]: row["name"] for row in rows(tmp_path / "a" / "labels.jsonl")}
    assert len(labels) == len(rows(tmp_path / "a" / "labels.jsonl")) == 26_592
    assert labels["A00.0"] == "Cholera due to Vibrio cholerae 01, biovar cholerae"
    terms = {row["text"]: row["labels"] for row in rows(tmp_path / "a" / "terms.jsonl")}
    assert len(terms) == 10_641
    assert terms["Classical cholera"] == ["A00.0"]
    assert all(set(codes) <= labels.keys() for codes in terms.values())
    notes = rows(tmp_path / "a" / "notes.jsonl")
    assert len(notes) == 50
    assert notes == rows(tmp_path / "b" / "notes.jsonl") != rows(tmp_path / "c" / "notes.jsonl")
    assert {len(row["labels"]) for row in notes} >= {3, 4, 5}


def test_icd10cm_note_has_one_sentence_a_term() -> None:
    terms = [
        icd.Term("Ague.", ("B54",), frozenset("1")),
        icd.Term("Gout", ("M10",), frozenset("2")),
    ]
    row = icd.note_row(7, terms)
    assert row == {"id": "note-7", "text": "Ague. Gout.", "labels": ["B54", "M10"]}


def test_icd10cm_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert icd.main(["--output", str(tmp_path), "--notes", "-1"]) == 2
    assert capsys.readouterr().err == "error: --notes must be 0 or more, not -1\n"
