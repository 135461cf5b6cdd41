"""`irr.writer`: predictions as JSON lines, and what is left when a run ends early."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from irr.errors import DocumentError, OutputError
from irr.types import Prediction, ScoredLabel, Usage
from irr.writer import PredictionWriter, prediction_to_json

ROOT = Path(__file__).parents[1]

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


def write_all(predictions: Iterable[Prediction], target: str | Path) -> int:
    with PredictionWriter(target) as writer:
        for prediction in predictions:
            writer.write(prediction)
    return writer.rows


def ids(path: Path) -> list[str]:
    data = path.read_bytes()
    text = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    assert text.endswith(b"\n")
    return [json.loads(line)["id"] for line in text.decode().splitlines()]


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_a_file_appears_when_it_is_whole(tmp_path: Path, name: str) -> None:
    path, old = tmp_path / name, b"old"
    path.write_bytes(old)
    with PredictionWriter(path) as writer:
        for prediction in rows(3):
            writer.write(prediction)
            assert path.read_bytes() == old
    assert ids(path) == ["1", "2", "3"]
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    assert writer.rows == write_all(rows(3), path) == 3
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
        write_all(broken(), path)
    assert not path.exists()
    assert ids(partial) == ["1", "2"]
    assert caplog.messages == [f"2 finished rows are kept in {partial}"]

    # A new run keeps what it finds.
    assert write_all(rows(1), path) == 1
    assert (ids(path), ids(tmp_path / f"{name}.partial.1")) == (["1"], ["1", "2"])
    assert not partial.exists()


def test_nothing_is_kept_where_nothing_was_finished(tmp_path: Path) -> None:
    with pytest.raises(KeyError), PredictionWriter(tmp_path / "out.jsonl"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_written_through(tmp_path: Path) -> None:
    target, link = tmp_path / "real.jsonl", tmp_path / "link.jsonl"
    target.write_text("old")
    link.symlink_to(target)
    write_all(rows(1), link)
    assert link.is_symlink()
    assert ids(target) == ["1"]


def test_targets_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="its folder does not exist: create it first"):
        write_all(rows(1), tmp_path / "no" / "out.jsonl")
    with pytest.raises(OutputError, match="it is a folder; give a file"):
        write_all(rows(1), tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk() -> None:
    with pytest.raises(OutputError, match=r"^/dev/full: the disk is full: free some space"):
        write_all(rows(1), "/dev/full")
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
from irr.errors import OutputError
from irr.types import Prediction
from irr.writer import PredictionWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))
noise = random.Random(0)
try:
    with PredictionWriter(sys.argv[1]) as writer:
        for i in range(100_000):
            writer.write(Prediction(str(i), "ok", guesses=(noise.randbytes(20).hex(),)))
except OutputError as error:
    sys.stderr.write(str(error) + chr(10))
"""


def test_a_device_is_written_and_not_replaced() -> None:
    assert write_all(rows(2), "/dev/null") == 2
    assert Path("/dev/null").is_char_device()


STDOUT = """
import sys
from irr.errors import OutputError
from irr.types import Prediction
from irr.writer import PredictionWriter
try:
    with PredictionWriter("-") as writer:
        for _ in range(100_000):
            writer.write(Prediction("é", "ok"))
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
    assert write_all([Prediction("é", "ok")], "-") == 1
    assert json.loads(capsysbinary.readouterr().out)["id"] == "é"
    assert not sys.stdout.closed
    with contextlib.redirect_stdout(io.StringIO()) as stream:
        write_all(rows(2), "-")
    assert len(stream.getvalue().splitlines()) == 2
