"""`irr.writer`: predictions as JSON lines, and what is left when a run ends early."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from irr import writer as writer_module
from irr.errors import DocumentError, OutputError
from irr.types import Prediction, ScoredLabel, Usage
from irr.writer import PredictionWriter, prediction_to_json

ROOT = Path(__file__).parents[1]
needs_locks = pytest.mark.skipif(
    not writer_module.CAN_LOCK, reason="this system has no locks on files"
)

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
    text = path.read_bytes()
    assert text.endswith(b"\n")
    return [json.loads(line)["id"] for line in text.decode().splitlines()]


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path, old = tmp_path / "out.jsonl", b"old"
    path.write_bytes(old)
    with PredictionWriter(path) as writer:
        for prediction in rows(3):
            writer.write(prediction)
            assert path.read_bytes() == old
    assert ids(path) == ["1", "2", "3"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.jsonl"]
    assert writer.rows == write_all(rows(3), path) == 3


def test_rows_are_on_disk_as_they_come(tmp_path: Path) -> None:
    with PredictionWriter(tmp_path / "out.jsonl") as writer:
        writer.write(Prediction("1", "ok"))
        assert writer.partial == tmp_path / "out.jsonl.partial"
        assert ids(writer.partial) == ["1"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, DocumentError("x")])
def test_finished_rows_outlive_an_error(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    error: BaseException | type[BaseException],
) -> None:
    def broken() -> Iterator[Prediction]:
        yield from rows(2)
        raise error

    path, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    with pytest.raises((KeyboardInterrupt, DocumentError)), caplog.at_level(logging.WARNING):
        write_all(broken(), path)
    assert not path.exists()
    assert ids(partial) == ["1", "2"]
    assert caplog.messages == [f"2 finished rows are kept in {partial}"]

    # A new run keeps what it finds.
    assert write_all(rows(1), path) == 1
    assert (ids(path), ids(tmp_path / "out.jsonl.partial.1")) == (["1"], ["1", "2"])
    assert not partial.exists()


@needs_locks
def test_a_second_run_onto_the_same_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with PredictionWriter(path) as first:
        for prediction in rows(2):
            first.write(prediction)
        for _ in range(2):
            with pytest.raises(OutputError) as caught:
                write_all(rows(1), path)
            assert str(caught.value) == (
                f"{path}: another run is writing this file: wait for it or name another --output"
            )
        assert write_all(rows(1), tmp_path / "other.jsonl") == 1
        first.write(Prediction("3", "ok"))
    assert ids(path) == ["1", "2", "3"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["other.jsonl", "out.jsonl"]
    assert write_all(rows(1), path) == 1  # The lock went with the run.


WRITE_AND_WAIT = """
import sys
from irr.types import Prediction
from irr.writer import PredictionWriter
with PredictionWriter(sys.argv[1]) as writer:
    writer.write(Prediction("1", "ok"))
    print(flush=True)
    sys.stdin.read()
"""


@needs_locks
def test_what_a_killed_run_left_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "out.jsonl"
    command = [sys.executable, "-c", WRITE_AND_WAIT, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=ROOT) as process:
        assert process.stdout
        process.stdout.readline()
        with pytest.raises(OutputError, match="another run is writing this file"):
            write_all(rows(2), path)
        process.kill()
    with caplog.at_level(logging.WARNING):
        assert write_all(rows(2), path) == 2
    older = tmp_path / "out.jsonl.partial.1"
    assert caplog.messages == [f"rows of an interrupted run are kept in {older}"]
    assert (ids(path), ids(older)) == (["1", "2"], ["1"])


@needs_locks
def test_of_many_runs_at_once_none_mixes_its_rows_with_another(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    refused: list[str] = []
    whole: list[str] = []

    def run(name: str) -> None:
        try:
            write_all((Prediction(f"{name}-{i}", "ok") for i in range(20)), path)
        except OutputError as error:
            refused.append(str(error))
        else:
            whole.append(name)

    for turn in range(20):
        path.with_name("out.jsonl.partial").write_text("left\n")
        threads = [threading.Thread(target=run, args=(f"{turn}-{i}",)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        last = ids(path)[0].removesuffix("-0")
        assert last.startswith(f"{turn}-")
        assert last in whole
        assert ids(path) == [f"{last}-{i}" for i in range(20)]
    assert len(whole) + len(refused) == 20 * 8
    busy = "another run is writing this file: wait for it or name another --output"
    assert set(refused) <= {f"{path}: {busy}"}
    kept = sorted(entry.name for entry in tmp_path.iterdir())
    assert kept == ["out.jsonl", *sorted(f"out.jsonl.partial.{n}" for n in range(1, 21))]
    assert {entry.read_text() for entry in tmp_path.glob("*.partial.*")} == {"left\n"}


@needs_locks
def test_a_file_that_moved_before_it_waslock_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial, lock, calls = tmp_path / "out.jsonl.partial", writer_module.lock, []

    def late(file: BinaryIO) -> bool:
        calls.append(file)
        if len(calls) == 1:
            partial.rename(tmp_path / "stolen")
        return lock(file)

    monkeypatch.setattr(writer_module, "lock", late)
    assert write_all(rows(2), tmp_path / "out.jsonl") == 2
    assert ids(tmp_path / "out.jsonl") == ["1", "2"]
    assert (tmp_path / "stolen").read_bytes() == b""
    assert len(calls) == 2


@pytest.mark.parametrize("locks", [pytest.param(True, marks=needs_locks), False])
def test_a_partial_file_that_is_not_ours_never_takes_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: bool
) -> None:
    monkeypatch.setattr(writer_module, "CAN_LOCK", locks)
    path, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    with pytest.raises(OutputError) as caught, PredictionWriter(path) as writer:
        writer.write(Prediction("1", "ok"))
        partial.rename(tmp_path / "moved")
        partial.write_text("another's")
    assert str(caught.value) == (
        f"{path}: {partial} was moved, removed or replaced while it was written: "
        "find its 1 rows where it was moved, or run again"
    )
    assert not path.exists()
    assert partial.read_text() == "another's"
    assert ids(tmp_path / "moved") == ["1"]


def test_a_partial_file_that_is_not_ours_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    partial = tmp_path / "out.jsonl.partial"
    with pytest.raises(KeyError), PredictionWriter(tmp_path / "out.jsonl") as writer:
        writer.write(Prediction("1", "ok"))
        partial.unlink()
        partial.write_text("another's, and longer than the row that this run wrote" * 9)
        raise KeyError
    assert partial.read_text().endswith("wrote")
    assert caplog.messages == [
        f"{partial} was moved, removed or replaced while it was written: "
        "find its 1 finished rows where it was moved"
    ]


def test_without_locks_an_older_file_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "CAN_LOCK", False)
    (tmp_path / "out.jsonl.partial").write_text("left")
    assert write_all(rows(1), tmp_path / "out.jsonl") == 1
    assert (tmp_path / "out.jsonl.partial.1").read_text() == "left"


def test_whatever_has_the_name_of_the_partial_file_is_set_aside(tmp_path: Path) -> None:
    path, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    partial.symlink_to(tmp_path / "nowhere")
    assert write_all(rows(1), path) == 1
    partial.mkdir()
    assert write_all(rows(2), path) == 2
    partial.write_text("read only")
    partial.chmod(0o444)
    assert write_all(rows(3), path) == 3
    assert ids(path) == ["1", "2", "3"]
    assert (tmp_path / "out.jsonl.partial.1").is_symlink()
    assert (tmp_path / "out.jsonl.partial.2").is_dir()
    assert (tmp_path / "out.jsonl.partial.3").read_text() == "read only"


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


def test_a_write_that_fails_keeps_the_rows_before_it(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="this system has no limit on the size of a file")
    target, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    command = [sys.executable, "-c", LIMITED, str(target)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    kept, failure = result.stderr.splitlines()
    assert failure == f"{target}: cannot be written: File too large"
    said = re.fullmatch(rf"(\d+) finished rows are kept in {re.escape(str(partial))}", kept)
    assert said
    assert [entry.name for entry in tmp_path.iterdir()] == [partial.name]
    assert int(said[1]) > 10
    assert ids(partial) == [str(i) for i in range(int(said[1]))]


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
