from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import HashEncoder
from scripted_server import Call, ScriptedServer

import irr.build
import irr.directory
from irr.build import LMChoice, build_program, open_program
from irr.cli import main
from irr.directory import load_program, save_program
from irr.labels import LabelSet
from irr.retrieve import RetrieveSettings
from irr.types import Document, Label

Serve = Callable[..., ScriptedServer]
LABELS = LabelSet([Label("1", "use databases"), Label("2", "bake bread"), Label("3", "sing")])


@pytest.fixture
def encoded(hash_encoder: HashEncoder, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that were embedded."""
    texts: list[str] = []

    class Recording(HashEncoder):
        def encode(
            self, wanted: Sequence[str], *, progress: object = None, **_: object
        ) -> np.ndarray:
            texts.extend(wanted)
            return super().encode(wanted, progress=progress)

    for module in (irr.build, irr.directory):
        monkeypatch.setattr(module, "load_encoder", lambda *args, **options: Recording())
    return texts


@pytest.fixture
def more(tmp_path: Path) -> str:
    path = tmp_path / "more.jsonl"
    rows = [
        {"id": "2", "name": "bake cakes", "alternative_names": ["bake bread"]},
        {"id": "4", "name": "fly planes", "description": "By pilots."},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def good(call: Call) -> str:
    return '{"guesses": ["fly planes"]}' if call.stage == "infer" else '{"ranking": [1]}'


def test_labels_are_added_and_renamed_with_only_new_names_embedded(
    encoded: list[str],
    more: str,
    tmp_path: Path,
    serve: Serve,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = serve(good)
    lm = LMChoice("tiny", server.url, timeout=5)
    examples = [Document("e", "Bread!", gold=("2",))]
    save_program(build_program(LABELS, lm=lm, examples=examples), tmp_path / "p", card="card\n")
    encoded.clear()
    assert (
        main(["labels", str(tmp_path / "p"), "--add", more, "--output", str(tmp_path / "q")]) == 0
    )
    assert encoded == ["bake cakes", "fly planes", "fly planes: By pilots."]
    assert "1 labels added, 1 changed" in capsys.readouterr().out
    extended = load_program(tmp_path / "q")
    whole = LabelSet(
        [
            Label("1", "use databases"),
            Label("2", "bake cakes", ("bake bread",)),
            Label("3", "sing"),
            Label("4", "fly planes", description="By pilots."),
        ]
    )
    assert list(extended.labels) == list(whole)
    fresh = build_program(whole)
    np.testing.assert_array_equal(extended.retriever.index.vectors, fresh.retriever.index.vectors)
    assert extended.retriever.index.kinds.tolist() == fresh.retriever.index.kinds.tolist()
    np.testing.assert_allclose(extended.retriever.index.hubs, fresh.retriever.index.hubs)
    assert "Extended afterwards" in (tmp_path / "q" / "CARD.md").read_text()
    server.calls.clear()
    program = open_program(tmp_path / "q", lm=LMChoice(None, server.url, timeout=5))
    assert program.predict("x").labels[0].id == "4"
    assert len(server.calls[0].messages) == 4  # the demonstration is still there
    assert server.calls[0].body["model"] == "tiny"


def test_adding_what_is_there_is_refused(
    encoded: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_program(build_program(LABELS), tmp_path / "p")
    path = tmp_path / "same.jsonl"
    path.write_text('{"id": "3", "name": "sing"}\n')
    assert main(["labels", str(tmp_path / "p"), "--add", str(path)]) == 3
    assert "in the program already" in capsys.readouterr().err


def test_show_prints_the_card(
    encoded: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_program(build_program(LABELS), tmp_path / "p", card="# Card\nüber\n")
    assert main(["show", str(tmp_path / "p")]) == 0
    assert capsys.readouterr().out == "# Card\nüber\n"
    assert main(["show", str(tmp_path)]) == 3
    assert "no program there" in capsys.readouterr().err


def test_diff_says_what_differs(
    encoded: list[str], more: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, c = (str(tmp_path / name) for name in "abc")
    save_program(build_program(LABELS), a)
    save_program(build_program(LABELS, settings=RetrieveSettings(temperature=0.2)), b)
    main(["labels", a, "--add", more, "--output", c])
    capsys.readouterr()
    assert main(["diff", a, a]) == 0
    assert capsys.readouterr().out == "no difference\n"
    assert main(["diff", a, b]) == 1
    assert capsys.readouterr().out == "retrieve.temperature: 0.11 -> 0.2\n"
    assert main(["diff", a, c]) == 1
    out = capsys.readouterr().out
    assert "label_set.labels: 3 -> 4" in out
    assert "labels added: 1 (4)" in out
    assert "labels changed: 1 (2)" in out


def run_labels(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main(["labels", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    rows = [
        {"id": "1", "name": "animals", "description": "they  move", "language": "en"},
        {"id": "2", "name": "cats", "alternative_names": ["felines"], "parents": ["1", "9"]},
        {"id": "3", "name": "cats", "parents": ["2"], "notations": ["59.3"]},
    ]
    rows[0]["translations"] = {"fi": {"name": "eläimet"}}
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_labels_shows_what_was_read(vocabulary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run_labels(capsys, vocabulary)
    assert status == 0
    assert (
        out
        == f"""\
{vocabulary}: a JSON object a line
  labels             3
  alternative names  1 of 1 labels
  descriptions       1
  notations          1
  with parents       2
  hierarchy          3 levels, 1 at the top, 1 without narrower
  languages          none 2, en 1, fi 1

example 1
  id               1
  name             animals
  other languages  eläimet (fi)
  description      they move

example 2
  id                 2
  name               cats
  alternative names  felines
  parents            1, 9

example 3
  id         3
  name       cats
  parents    2
  notations  59.3

warning: {vocabulary}: 1 names are those of several labels: 'cats' is that of 2, 3
warning: {vocabulary}: 1 parents are not among the labels: 9
"""
    )


def test_labels_cuts_what_is_long(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 100_000
    rows = [
        {
            "id": f"{number}{long}",
            "name": f"n{long}",
            "alternative_names": [f"a{long}", f"b{long}"],
            "description": f"d{long}",
            "parents": [f"p{long}", f"{number}{long}"],
            "notations": [f"c{long}"],
            "translations": {"fi": {"name": f"f{long}"}},
        }
        for number in range(3)
    ]
    path = tmp_path / "long.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, out, _ = run_labels(capsys, path)
    assert status == 0
    assert out.count("warning: ") == 3
    assert f"  name               n{299 * 'x'}…\n" in out
    assert max(len(run) for run in re.findall("x+", out)) == 299
    assert max(map(len, out.splitlines())) < 700 + len(str(path))


def test_labels_at_a_terminal(
    vocabulary: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    status, out, _ = run_labels(capsys, vocabulary)
    assert status == 0
    plain = re.sub(r"\x1b\[\d+m", "", out)
    assert plain != out
    assert max(map(len, plain.partition("warning")[0].splitlines())) <= 40
    assert "hierarchy          3 levels, 1 at the\n" in re.sub(" +\n", "\n", plain)


def test_labels_tells_all_errors_and_does_not_convert(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text('id,name\n1,a\n2\n3,"b"x\n4,\n1,c\n,d\n5,e\n')
    status, out, err = run_labels(capsys, path, "--convert", tmp_path / "out.jsonl")
    told = [line for line in out.splitlines() if line.startswith("error: ")]
    assert [int(line.split(":")[2]) for line in told] == [3, 4, 5, 6, 7]
    assert "the id '1' is that of line 2 too" in told[3]
    assert "labels             2" in out
    assert status == 3
    assert "5 errors, shown above: mend them; nothing was converted" in err
    assert not (tmp_path / "out.jsonl").exists()


def test_labels_that_hold_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "empty.txt"
    path.write_text("")
    status, _, err = run_labels(capsys, path)
    assert (status, "holds no labels" in err) == (3, True)


def test_cycles_of_parents_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parents = {"a": "b", "b": "c", "c": "a", "d": "d", "e": "a", "f": None}
    path = tmp_path / "cycles.jsonl"
    rows = ({"name": name, "parents": [up] if up else []} for name, up in parents.items())
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, out, _ = run_labels(capsys, path)
    assert status == 0
    assert "2 cycles of parents: a > b > c > a; d > d" in out
    assert "4 levels, 1 at the top, 2 without narrower" in out


def test_labels_in_a_format_and_language_converted(
    vocabulary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = vocabulary.rename(tmp_path / "labels.data")
    status, _, err = run_labels(capsys, odd)
    assert (status, "choose it with --labels-format (txt, csv" in err) == (3, True)
    options = ["--labels-format", "jsonl", "--language", "fi", "--convert", tmp_path / "out.tsv"]
    status, out, _ = run_labels(capsys, odd, *options)
    assert status == 0
    written = (tmp_path / "out.tsv").read_text(encoding="utf-8")
    assert written == "<1>\teläimet\n<2>\tcats\n<3>\tcats\t59.3\n"
    assert "no place for 1 alternative names, 1 descriptions, 3 parents, 1 names in oth" in out


def test_labels_of_a_program(
    encoded: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_program(build_program(LABELS), tmp_path / "p")
    status, out, _ = run_labels(capsys, tmp_path / "p")
    assert (status, "labels             3\n" in out) == (0, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--add", "a.txt", "--convert", "b.ttl"], "convert first"),
        (["--output", "b.ttl"], "--convert OUT"),
    ],
)
def test_options_that_do_not_go_together(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["labels", "p", *options])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_labels_needs_neither_torch_nor_dspy(vocabulary: Path) -> None:
    code = (
        "import sys; from irr.cli import main; status = main(sys.argv[1:])\n"
        "assert not {'torch', 'dspy', 'numpy', 'rich'} & sys.modules.keys()\n"
        "sys.exit(status)"
    )
    command = [sys.executable, "-c", code, "labels", str(vocabulary)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_labels_shows_no_control_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jsonl"
    names = ["\x1b[31mcats", "\x1b[31mcats", ""]
    rows = [{"id": str(number), "name": name} for number, name in enumerate(names)]
    rows.append({"id": "\x9b2J", "name": "x", "parents": ["\x07"]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, out, err = run_labels(capsys, path)
    assert status == 3
    assert "name  \\x1b[31mcats\n" in out
    assert "id       \\x9b2J\n" in out
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", out + err)
