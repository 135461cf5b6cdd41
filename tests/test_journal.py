"""`irr.journal`: whatever ends a run, the same command continues it, to the same bytes."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from irr.errors import OutputError
from irr.journal import Journal, is_journaled
from irr.journal import checking as checking_module
from irr.journal import journal as journal_module
from irr.journal import opening as opening_module
from irr.journal.rows import size_of
from irr.journal.state import extend_digest
from irr.parquet import read_predictions
from irr.readahead import ReadAhead
from irr.selection import Selection
from irr.show import RunProgress
from irr.types import Document, Prediction, ScoredLabel, Usage
from irr.writer import CAN_LOCK, prediction_to_json

ROOT = Path(__file__).parents[1]
RUN: dict[str, object] = {"labels": "0f3a", "top_k": 10, "lm": None}
needs_locks = pytest.mark.skipif(not CAN_LOCK, reason="this system has no locks on files")


def documents(count: int) -> list[Document]:
    return [Document(f"d{i}", f"text {i} é\u2028") for i in range(count)]


def predict(document: Document) -> Prediction:
    label = ScoredLabel("S1", f"label of {document.id}", 0.5, document.text, picked=True)
    return Prediction(document.id, "ok", (label,), ("a guess",), Usage(2, 30, 4), ("a note",))


def fail(document: Document) -> Prediction:
    return Prediction(document.id, "error", usage=Usage(1, 9, 0), error=("LMError", "no answer"))


def lines(predictions: Iterable[Prediction]) -> bytes:
    return "".join(prediction_to_json(p) + "\n" for p in predictions).encode()


class StopError(Exception):
    pass


def work(
    target: Path,
    source: Iterable[Document],
    *,
    run: Mapping[str, object] = RUN,
    stop_after: int | None = None,
    failing: Iterable[str] = (),
    **options: bool,
) -> list[str]:
    """Predicts what remains; returns the ids that were predicted."""
    asked: list[str] = []
    with Journal(target, run, **options) as journal:
        for document in journal.remaining(source):
            if len(asked) == stop_after:
                raise StopError
            asked.append(document.id)
            journal.write(fail(document) if document.id in failing else predict(document))
    return asked


def begin(target: Path, source: Iterable[Document], rows: int, **options: object) -> None:
    with pytest.raises(StopError):
        work(target, source, stop_after=rows, **options)  # type: ignore[arg-type]


def beside(target: Path, ending: str) -> Path:
    return target.with_name(target.name + ending)


def state(target: Path) -> dict[str, object]:
    value: dict[str, object] = json.loads(beside(target, ".run.json").read_text())
    return value


def size(path: Path) -> int:
    return size_of(path) or 0


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def test_a_run_makes_the_file_and_says_what_it_is_of(target: Path) -> None:
    assert work(target, documents(3)) == ["d0", "d1", "d2"]
    assert target.read_bytes() == lines(map(predict, documents(3)))
    assert names(target.parent) == ["out.jsonl", "out.jsonl.run.json"]
    said = state(target)
    assert (said["format"], said["version"], said["run"]) == ("irr run", 1, RUN)
    numbers = (said["rows"], said["bytes"], said["failed"], said["finished"])
    assert numbers == (3, size(target), 0, True)


def test_no_documents_make_an_empty_file(target: Path) -> None:
    assert work(target, []) == []
    assert target.read_bytes() == b""
    assert state(target)["finished"] is True


def test_a_finished_run_is_not_run_again(target: Path) -> None:
    work(target, documents(3), failing=["d1"])
    before = target.read_bytes()
    with Journal(target, RUN) as journal:
        assert (journal.finished, journal.rows, journal.failed) == (True, 3, 1)
        assert list(journal.remaining(documents(3))) == []
    assert target.read_bytes() == before
    assert names(target.parent) == ["out.jsonl", "out.jsonl.run.json"]


def test_rows_are_in_the_file_as_they_come(target: Path) -> None:
    with Journal(target, RUN) as journal:
        for number, document in enumerate(journal.remaining(documents(3)), start=1):
            journal.write(predict(document))
            assert beside(target, ".partial").read_bytes() == lines(map(predict, documents(number)))
            assert state(target)["finished"] is False
            assert not target.exists()


def test_nothing_is_made_before_the_first_row(target: Path) -> None:
    begin(target, documents(2), 0)
    assert names(target.parent) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OutputError("x"), None])
def test_however_a_run_ends_early_it_is_continued(
    target: Path, caplog: pytest.LogCaptureFixture, stop: BaseException | None
) -> None:
    def interrupted() -> None:
        with Journal(target, RUN) as journal:
            for document in journal.remaining(documents(5)):
                if journal.rows == 2:
                    if stop is None:
                        return
                    raise stop
                journal.write(predict(document))

    if stop is None:
        interrupted()
    else:
        with pytest.raises((KeyboardInterrupt, OutputError)):
            interrupted()
    partial = beside(target, ".partial")
    assert caplog.messages == [
        f"2 finished rows are kept in {partial}: the same command goes on after them"
    ]
    assert names(target.parent) == ["out.jsonl.partial", "out.jsonl.run.json"]
    assert work(target, documents(5)) == ["d2", "d3", "d4"]
    assert target.read_bytes() == lines(map(predict, documents(5)))
    assert names(target.parent) == ["out.jsonl", "out.jsonl.run.json"]


def test_a_document_without_its_row_leaves_the_run_unfinished(target: Path) -> None:
    with Journal(target, RUN) as journal:
        first, _ = journal.remaining(documents(2))
        journal.write(predict(first))
    assert not target.exists()
    assert work(target, documents(2)) == ["d1"]


def test_rows_come_in_the_order_of_the_documents(target: Path) -> None:
    with pytest.raises(ValueError, match="the row of 'd1' is not the next one"):  # noqa: SIM117
        with Journal(target, RUN) as journal:
            _, second = journal.remaining(documents(2))
            journal.write(predict(second))


@pytest.mark.parametrize("checkpointed", [True, False])
def test_a_file_cut_at_any_byte_of_its_last_row_is_healed(
    target: Path, monkeypatch: pytest.MonkeyPatch, checkpointed: bool
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # Hundreds of runs; no power is cut here.
    monkeypatch.setattr(journal_module, "CHECKPOINT_SECONDS", 0.0 if checkpointed else 1e9)
    source = documents(4)
    begin(target, source, 3)
    if not checkpointed:  # As a kill leaves it: checkpoints of earlier rows only.
        said = {**state(target), **checkpoint_of(source[:1])}
        beside(target, ".run.json").write_text(json.dumps(said))
    partial, told = beside(target, ".partial"), beside(target, ".run.json").read_text()
    assert state(target)["rows"] == (3 if checkpointed else 1)
    whole, kept = partial.read_bytes(), lines(map(predict, source[:2]))
    expected = lines(map(predict, source))
    for cut in range(len(kept), len(whole)):
        target.unlink(missing_ok=True)
        partial.write_bytes(whole[:cut])
        beside(target, ".run.json").write_text(told)
        assert work(target, source) == ["d2", "d3"]
        assert target.read_bytes() == expected


def checkpoint_of(source: list[Document]) -> dict[str, object]:
    digest = b""
    for document in source:
        digest = extend_digest(digest, document)
    length = len(lines(map(predict, source)))
    return {"rows": len(source), "bytes": length, "input_digest": digest.hex()}


@pytest.mark.parametrize(
    "tail",
    [
        b"\0" * 4096,
        b"\0" * 4095 + b"\n",
        b'{"id": "d2", "status"',
        b"null\n",
        b'{"id": 2, "status": "ok"}\n',
        b'{"id": "d2", "status": "o\n',
        b"[" * 100_000 + b"\n",
        b'\xff\n{"id": "d3", "status": "ok"}\n',
    ],
)
def test_what_is_no_row_is_cut_off(target: Path, tail: bytes) -> None:
    begin(target, documents(4), 2)
    with beside(target, ".partial").open("ab") as partial:
        partial.write(tail)
    assert work(target, documents(4)) == ["d2", "d3"]
    assert target.read_bytes() == lines(map(predict, documents(4)))


def test_rows_after_the_checkpoint_count(target: Path) -> None:
    begin(target, documents(4), 1)
    with beside(target, ".partial").open("ab") as partial:
        partial.write(lines([fail(documents(2)[1])]))
    with Journal(target, RUN) as journal:
        assert (journal.rows, journal.failed) == (2, 1)


def test_a_partial_file_that_was_lost_is_begun_again(target: Path) -> None:
    begin(target, documents(3), 2)
    beside(target, ".partial").unlink()
    assert work(target, documents(3), run={"other": 1}) == ["d0", "d1", "d2"]


KILLED = """
import sys
sys.path.insert(0, "tests")
from pathlib import Path
import irr.journal.journal as module
from test_journal import *
module.CHECKPOINT_SECONDS = 0.01
target = Path(sys.argv[1])
print(flush=True)
work(target, documents(2000))
"""


def test_a_run_killed_at_any_moment_is_continued(target: Path) -> None:
    chance = random.Random(0)
    command = [sys.executable, "-c", KILLED, str(target)]
    partial, kills, before = beside(target, ".partial"), 0, -1
    while not target.exists():
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
            assert process.stdout
            process.stdout.readline()
            aim = chance.randint(1, 200_000)
            start = size(partial)
            while process.poll() is None and not target.exists():
                if size(partial) >= start + aim:
                    process.kill()
                    kills += 1
                    break
        now = size(partial)
        assert target.exists() or now > before
        before = now
    work(target, documents(2000))
    assert kills > 0
    assert target.read_bytes() == lines(map(predict, documents(2000)))
    assert sorted(set(names(target.parent)) - {"out.jsonl.lock"}) == [
        "out.jsonl",
        "out.jsonl.run.json",
    ]


HOLD = """
import sys
sys.path.insert(0, "tests")
from pathlib import Path
from test_journal import *
with Journal(Path(sys.argv[1]), RUN) as journal:
    for document in journal.remaining(documents(2)):
        journal.write(predict(document))
        if journal.rows == 1:
            print(flush=True)
            sys.stdin.read()
"""


@needs_locks
def test_a_second_run_onto_the_same_file_is_refused(target: Path) -> None:
    busy = f"{target}: another run is writing this file: wait for it or name another --output"
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", HOLD, str(target)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=ROOT) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        for options in ({}, {"restart": True}, {"resume_changed": True}):
            with pytest.raises(OutputError) as caught:
                work(target, documents(2), **options)
            assert str(caught.value) == busy
        process.stdin.close()
        assert process.wait() == 0
    assert target.read_bytes() == lines(map(predict, documents(2)))
    with Journal(target, RUN) as journal:
        assert journal.finished


@needs_locks
def test_of_many_runs_at_once_one_works(target: Path) -> None:
    outcomes: list[str] = []

    def run() -> None:
        try:
            outcomes.append(f"predicted {len(work(target, documents(30)))}")
        except OutputError as error:
            outcomes.append(str(error))

    for _ in range(10):
        for path in target.parent.iterdir():
            path.unlink()
        outcomes.clear()
        threads = [threading.Thread(target=run) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes.count("predicted 30") == 1
        busy = f"{target}: another run is writing this file: wait for it or name another --output"
        assert set(outcomes) <= {"predicted 30", "predicted 0", busy}
        assert target.read_bytes() == lines(map(predict, documents(30)))
        assert names(target.parent) == ["out.jsonl", "out.jsonl.run.json"]


def test_another_run_is_refused_and_says_what_differs(target: Path) -> None:
    begin(target, documents(3), 2)
    other = {"labels": "77", "lm": None, "top_k": 5, "new": [1]}
    with pytest.raises(OutputError) as caught:
        work(target, documents(3), run=other)
    assert str(caught.value) == (
        f"{target}: labels, top_k and new are not those the file was begun with: --restart begins "
        "anew, --resume-changed keeps its rows and goes on, or name another --output"
    )
    with pytest.raises(OutputError, match="top_k is not the one the file was begun with"):
        work(target, documents(3), run={**RUN, "top_k": 5})
    assert work(target, documents(3), run=other, resume_changed=True) == ["d2"]
    assert target.read_bytes() == lines(map(predict, documents(3)))
    assert state(target)["run"] == other
    assert state(target)["earlier_runs"] == [{"rows": 2, "run": RUN}]


def test_a_finished_run_may_be_continued_with_more_documents(target: Path) -> None:
    work(target, documents(2))
    with pytest.raises(OutputError, match="more documents than the 2"):
        work(target, documents(4))
    changed = {**RUN, "input": "longer"}
    before = target.read_bytes()
    begin(target, documents(4), 1, run=changed, resume_changed=True)
    assert target.read_bytes() == before
    assert work(target, documents(4), run=changed) == ["d3"]
    assert target.read_bytes() == lines(map(predict, documents(4)))


def test_further_documents_of_the_same_run_are_predicted(target: Path) -> None:
    work(target, documents(20), failing=["d3"])
    with pytest.raises(OutputError, match="20 that the finished run was of: --resume-changed"):
        work(target, documents(21))
    assert work(target, documents(21), resume_changed=True) == ["d20"]
    row, *others = [fail(d) if d.id == "d3" else predict(d) for d in documents(21)]
    assert target.read_bytes() == lines([row, *others])
    assert state(target)["earlier_runs"] == []
    assert work(target, documents(21)) == []


def test_a_changed_text_of_a_finished_run_is_passed_over(target: Path) -> None:
    work(target, documents(3))
    before = target.read_bytes()
    source = [*documents(2), Document("d2", "other")]
    with pytest.raises(OutputError, match="or --resume-changed keeps the rows and goes on"):
        work(target, source)
    assert work(target, source, resume_changed=True) == []
    assert work(target, source) == []
    assert target.read_bytes() == before


def test_the_rows_of_a_finished_run_are_not_read(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(target, documents(3))
    for module in (journal_module, checking_module):
        monkeypatch.setattr(module, "read_rows", die)
    with Journal(target, RUN) as journal:
        assert list(journal.remaining(documents(3))) == []


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.parquet"])
@pytest.mark.parametrize("left", [0, 2, 4])
def test_a_finished_file_with_other_rows_is_refused(tmp_path: Path, name: str, left: int) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    target, other = tmp_path / name, tmp_path / f"other-{name}"
    work(target, documents(3))
    whole = target.read_bytes()
    work(other, documents(left))
    other.replace(target)
    for options in ({}, {"resume_changed": True}, {"retry_failed": True}):
        with pytest.raises(OutputError) as caught:
            work(target, documents(3), **options)
        assert str(caught.value) == (
            f"{target}: has been changed since the run was finished: it does not have the 3 rows "
            f"that {name}.run.json tells of: put them back, or --restart begins anew"
        )
    target.write_bytes(whole)
    assert work(target, documents(3)) == []


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.parquet"])
def test_a_finished_file_that_was_cut_is_refused(tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    target = tmp_path / name
    work(target, documents(3))
    whole = target.read_bytes()
    for cut in (0, 3, len(whole) // 2, len(whole) - 1):
        target.write_bytes(whole[:cut])
        with pytest.raises(OutputError, match="it does not have the 3 rows"):
            work(target, documents(3))


def test_a_file_of_somebody_else_is_not_replaced(target: Path) -> None:
    target.write_text("mine")
    with pytest.raises(OutputError, match=r"is there already, but no out\.jsonl\.run\.json"):
        work(target, documents(1))
    target.rename(beside(target, ".partial"))
    with pytest.raises(OutputError, match=r"out\.jsonl\.partial: is there already"):
        work(target, documents(1))
    assert beside(target, ".partial").read_text() == "mine"
    beside(target, ".partial").rename(target)
    begin(target, documents(2), 1, restart=True)
    assert target.read_text() == "mine"
    assert work(target, documents(2)) == ["d1"]
    assert target.read_bytes() == lines(map(predict, documents(2)))


@pytest.mark.parametrize("told", ["", "[]", "{}", '{"format": "irr run", "version": 1, "run": 3}'])
def test_a_run_file_that_tells_nothing_is_refused(target: Path, told: str) -> None:
    beside(target, ".run.json").write_text(told)
    with pytest.raises(OutputError, match=r"run\.json: does not tell of a run; --restart begins"):
        work(target, documents(1))
    beside(target, ".run.json").write_text('{"format": "irr run", "version": 2}')
    with pytest.raises(OutputError, match=r"run\.json: is of a later version of irr"):
        work(target, documents(1))
    assert work(target, documents(1), restart=True) == ["d0"]


def test_restart_begins_anew(target: Path, caplog: pytest.LogCaptureFixture) -> None:
    begin(target, documents(3), 2)
    other = [Document("x", "y"), *documents(2)]
    begin(target, other, 1, restart=True, run={})
    assert caplog.messages[-1].endswith("the same command without --restart goes on after them")
    assert work(target, other, run={}) == ["d0", "d1"]
    before = target.read_bytes()
    begin(target, documents(1), 0, restart=True)
    assert target.read_bytes() == before
    assert work(target, documents(1), restart=True) == ["d0"]
    assert target.read_bytes() == lines(map(predict, documents(1)))


def test_a_finished_file_that_was_moved_away_is_made_again(target: Path) -> None:
    work(target, documents(2))
    target.rename(target.with_name("kept.jsonl"))
    assert work(target, documents(1), run={}) == ["d0"]


TEXT = "a text or selection among the first 2 is another one"
IDS = "an id among the first 2 is another one, or in another place"


@pytest.mark.parametrize(
    ("source", "how"),
    [
        ([Document("x", ""), *documents(3)], "row 1 is of 'd0', document 1 is 'x'"),
        (documents(2)[::-1], "row 1 is of 'd0', document 1 is 'd1'"),
        ([documents(2)[0], Document("d1", "other"), *documents(3)], TEXT),
        (documents(1), "it ends after 1 documents, but there are more rows"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_an_input_that_has_changed_is_refused(
    target: Path, source: list[Document], how: str, finished: bool
) -> None:
    if finished:
        work(target, documents(2))
        how = IDS if how.startswith("row") else how
    else:
        begin(target, documents(3), 2)
    with pytest.raises(OutputError) as caught:
        work(target, source)
    # Only where it helps is an option named.
    helps = "--resume-changed keeps the rows and goes on, or begin" if how == TEXT else "begin"
    assert str(caught.value) == (
        f"{target}: the input has changed since the run was begun: {how}; give the input it was "
        f"begun with, or {helps} anew with --restart"
    )
    with contextlib.suppress(OutputError):
        work(target, source, resume_changed=True)
        assert how == TEXT


def test_changed_texts_are_passed_over_where_the_user_says_so(
    target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begin(target, documents(3), 2)
    source = [documents(1)[0], Document("d1", "other"), documents(3)[2]]
    assert work(target, source, resume_changed=True) == ["d2"]
    assert f"{target}: a text or selection among the first 2 has changed" in caplog.messages
    assert work(target, source) == []


@pytest.mark.parametrize("finished", [True, False])
def test_rows_of_other_selections_are_not_kept_in_silence(target: Path, finished: bool) -> None:
    def chosen(*entries: str) -> list[Document]:
        own = Selection(exclude=entries)
        return [replace(document, selection=own) for document in documents(3)]

    if finished:
        work(target, chosen("A"))
    else:
        begin(target, chosen("A"), 2)
    for other in (chosen("B"), chosen("A", "B"), documents(3)):
        with pytest.raises(OutputError, match=r"a text or selection among the first \d is another"):
            work(target, other)
    assert work(target, chosen("A")) == ([] if finished else ["d2"])


def test_moving_text_from_one_document_to_the_next_is_noticed(target: Path) -> None:
    begin(target, [Document("a", "bc"), Document("d", ""), Document("e", "")], 2)
    with pytest.raises(OutputError, match="a text or selection among the first 2"):
        work(target, [Document("a", "b"), Document("d", "c"), Document("e", "")])


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.parquet"])
def test_failed_rows_are_predicted_again(tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    target, source, failing = tmp_path / name, documents(9), ["d0", "d4", "d7"]
    work(target, source, failing=failing)
    before = target.read_bytes()
    begin(target, source, 1, retry_failed=True)
    assert target.read_bytes() == before
    assert work(target, source, retry_failed=True, failing=["d7"]) == ["d4", "d7"]
    assert state(target)["failed"] == 1
    assert work(target, source) == []
    assert work(target, source, retry_failed=True) == ["d7"]
    whole = tmp_path / f"whole-{name}"
    work(whole, source)
    assert target.read_bytes() == whole.read_bytes()
    with Journal(target, RUN, retry_failed=True) as journal:
        assert (journal.finished, journal.failed) == (True, 0)


def test_failed_rows_of_an_interrupted_run_are_predicted_again(target: Path) -> None:
    source = documents(6)
    begin(target, source, 4, failing=["d1", "d3"])
    rows = beside(target, ".partial").read_bytes()
    begin(target, source, 1, retry_failed=True)
    assert beside(target, ".partial").read_bytes() == rows
    assert names(target.parent) == [
        "out.jsonl.partial",
        "out.jsonl.retry",
        "out.jsonl.run.json",
    ]
    assert work(target, source) == ["d3", "d4", "d5"]
    assert target.read_bytes() == lines(map(predict, source))
    assert names(target.parent) == ["out.jsonl", "out.jsonl.run.json"]


@pytest.mark.parametrize(("rows", "left"), [(1, ["d1", "d3"]), (3, ["d1", "d4"])])
def test_what_fails_again_is_predicted_again(target: Path, rows: int, left: list[str]) -> None:
    source = documents(6)
    begin(target, source, 4, failing=["d1", "d3"])
    begin(target, source, rows, failing=["d1", "d4"], retry_failed=True)
    assert work(target, source, retry_failed=True) == sorted({*left, "d4", "d5"})
    assert target.read_bytes() == lines(map(predict, source))
    assert names(target.parent) == ["out.jsonl", "out.jsonl.run.json"]


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.parquet"])
def test_what_of_a_finished_run_fails_again_is_predicted_again(tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    target, source = tmp_path / name, documents(9)
    work(target, source, failing=["d0", "d4", "d7"])
    before = target.read_bytes()
    begin(target, source, 2, failing=["d0"], retry_failed=True)
    begin(target, source, 0, retry_failed=True)
    assert target.read_bytes() == before
    assert work(target, source, retry_failed=True) == ["d0", "d7"]
    whole = tmp_path / f"whole-{name}"
    work(whole, source)
    assert target.read_bytes() == whole.read_bytes()
    assert not beside(target, ".partial").exists()
    assert not beside(target, ".retry").exists()


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("step", ["fsync", "replace", "write_state"])
def test_a_retry_killed_before_it_is_retried_loses_nothing(
    target: Path, monkeypatch: pytest.MonkeyPatch, finished: bool, step: str
) -> None:
    source, failing = documents(9), ["d0", "d4", "d6"]
    if finished:
        work(target, source, failing=failing)
    else:
        begin(target, source, 7, failing=failing)
    begin(target, source, 2, failing=["d0"], retry_failed=True)
    with monkeypatch.context() as patch, contextlib.suppress(SystemError):
        owner = {"fsync": os, "replace": Path, "write_state": opening_module}[step]
        patch.setattr(owner, step, die)
        with Journal(target, RUN, retry_failed=True):
            pass
    again = work(target, source, retry_failed=True)
    assert again == ["d0", "d6"] + ([] if finished else ["d7", "d8"])
    assert target.read_bytes() == lines(map(predict, source))


def test_a_retry_of_a_retry_checks_the_texts(target: Path) -> None:
    begin(target, documents(6), 5, failing=["d0"])
    begin(target, documents(6), 1, failing=["d0"], retry_failed=True)
    source = [*documents(4), Document("d4", "other"), *documents(6)[5:]]
    for _ in range(2):
        with pytest.raises(
            OutputError, match="a text or selection among the first 5 is another one"
        ):
            work(target, source, failing=["d0"], retry_failed=True)
    assert work(target, documents(6), retry_failed=True) == ["d0", "d5"]


def test_a_retry_that_was_cut_short_is_healed(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    source = documents(5)
    begin(target, source, 4, failing=["d1", "d3"])
    begin(target, source, 2, retry_failed=True)
    kept = {path.name: path.read_bytes() for path in target.parent.iterdir()}
    retry = beside(target, ".retry")
    for cut in range(0, len(kept[retry.name]), 7):
        for name, content in kept.items():
            (target.parent / name).write_bytes(content)
        os.truncate(retry, cut)
        target.unlink(missing_ok=True)
        assert set(work(target, source)) <= {"d1", "d3", "d4"}
        assert target.read_bytes() == lines(map(predict, source))


def test_rows_that_failed_stay_where_nobody_asks_again(target: Path) -> None:
    begin(target, documents(3), 2, failing=["d0"])
    assert work(target, documents(3)) == ["d2"]
    row, *others = documents(3)
    assert target.read_bytes() == lines([fail(row), *map(predict, others)])


def test_a_retry_checks_the_texts(target: Path) -> None:
    begin(target, documents(4), 3, failing=["d0"])
    source = [*documents(2), Document("d2", "other")]
    with pytest.raises(OutputError, match="a text or selection among the first 3 is another one"):
        work(target, source, retry_failed=True)
    assert beside(target, ".partial").exists()


@pytest.mark.parametrize("name", ["out.jsonl.gz", "out.PARQUET"])
def test_the_name_says_the_format(tmp_path: Path, name: str) -> None:
    if not name.endswith("gz"):
        pytest.importorskip("pyarrow")
    target, source = tmp_path / name, documents(5)
    begin(target, source, 3)
    assert beside(target, ".partial").read_bytes() == lines(map(predict, source[:3]))
    assert work(target, source) == ["d3", "d4"]
    if name.endswith("gz"):
        rows = gzip.decompress(target.read_bytes())
    else:
        rows = b"".join(line.encode() + b"\n" for line in read_predictions(target))
    assert rows == lines(map(predict, source))
    with Journal(target, RUN) as journal:
        assert list(journal.remaining(source)) == []
    assert names(tmp_path) == [name, f"{name}.run.json"]


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.parquet"])
@pytest.mark.parametrize("retry", [False, True])
def test_a_run_killed_in_its_last_step_is_ended_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, retry: bool
) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    target, source, options = tmp_path / name, documents(3), {}
    if retry:
        begin(target, source, 2, failing=["d0"])
        options = {"retry_failed": True}
    with monkeypatch.context() as patch, pytest.raises(SystemError):
        patch.setattr(journal_module, "publish", die)
        work(target, source, **options)
    assert not target.exists()
    assert work(target, source) == []
    whole = tmp_path / f"whole-{name}"
    work(whole, source)
    assert target.read_bytes() == whole.read_bytes()
    assert sorted(set(names(tmp_path)) - {whole.name, f"{whole.name}.run.json"}) == [
        name,
        f"{name}.run.json",
    ]


def die(*_: object) -> None:
    raise SystemError


def test_a_file_beside_a_finished_run_is_left_alone(target: Path) -> None:
    work(target, documents(2))
    beside(target, ".partial").write_text("mine")
    with pytest.raises(OutputError, match="is there beside the rows of a finished run"):
        work(target, documents(2))
    assert beside(target, ".partial").read_text() == "mine"
    assert target.read_bytes() == lines(map(predict, documents(2)))


def test_a_retry_refuses_another_input_before_it_predicts(target: Path) -> None:
    source = documents(6)
    work(target, source, failing=["d1", "d3"])
    mended = [*source[:1], replace(source[1], selection=Selection(exclude=("A",))), *source[2:]]
    for other in (mended, source[:4]):
        asked: list[str] = []
        with (
            pytest.raises(OutputError, match="the input has changed"),
            Journal(target, RUN, retry_failed=True) as journal,
        ):
            asked.extend(document.id for document in journal.remaining(other))
        assert asked == []
    assert work(target, mended, retry_failed=True, resume_changed=True) == ["d1", "d3"]


def test_a_retry_of_much_text_does_not_hold_all_of_it_back(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = documents(6)
    work(target, source, failing=["d0", "d1", "d3"])
    monkeypatch.setattr(journal_module, "HELD_CHARS", len(source[0].text))
    read: list[str] = []
    with Journal(target, RUN, retry_failed=True) as journal:
        left = journal.remaining(read.append(d.id) or d for d in source)
        assert next(left).id == "d0"
        assert read == ["d0", "d1"]


@pytest.mark.parametrize("failing", [[], ["d1"]])
def test_rows_that_are_still_to_be_copied_are_covered(target: Path, failing: list[str]) -> None:
    source = documents(5)
    work(target, source, failing=["d1", "d4"])
    stream = io.StringIO()
    with (
        Journal(target, RUN, retry_failed=True) as journal,
        RunProgress(journal=journal, stream=stream) as progress,
    ):
        left = list(journal.remaining(source))
        assert journal.covered == (3, 0)
        row = (fail if failing else predict)(left[0])
        journal.write(row)
        progress.add(row)
        assert (journal.rows, journal.covered) == (2, (4, len(failing)))
        row = predict(left[1])
        journal.write(row)
        progress.add(row)
    assert journal.covered == (journal.rows, journal.failed) == (5, len(failing))
    assert stream.getvalue().startswith(f"irr: 5 documents (2 of them now), {len(failing)} failed,")


def test_the_summary_counts_rows_that_are_copied_at_the_end(target: Path) -> None:
    work(target, documents(3), failing=["d1"])
    stream = io.StringIO()
    with (
        Journal(target, RUN, retry_failed=True) as journal,
        RunProgress(journal=journal, stream=stream) as progress,
    ):
        for document in journal.remaining(documents(3)):
            journal.write(predict(document))
            progress.add(predict(document))
    assert stream.getvalue().startswith("irr: 3 documents (1 of them now), 0 failed,")


@pytest.mark.parametrize("rows", [0, 7])
def test_documents_may_be_read_ahead_in_another_thread(target: Path, rows: int) -> None:
    source = documents(50)
    begin(target, source, rows, failing=["d2"])
    with Journal(target, RUN, retry_failed=True) as journal:
        reader = ReadAhead(journal.remaining(iter(source)), 5)
        while some := reader.take(3, wait=True):
            for document in some:
                journal.write(predict(document))
        reader.raise_failure()
    assert target.read_bytes() == lines(map(predict, source))


def test_checkpoints_come_with_time_and_with_rows(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(journal_module.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(journal_module, "CHECKPOINT_ROWS", 4)
    monkeypatch.setattr(journal_module, "SECONDS_BETWEEN", 2.0)
    saved: list[object] = []
    with Journal(target, RUN) as journal:
        for document in journal.remaining(documents(12)):
            journal.write(predict(document))
            saved.append(state(target)["rows"])
    assert saved == [0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12]


LIMITED = """
import resource, sys
sys.path.insert(0, "tests")
from pathlib import Path
from test_journal import *
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))
try:
    work(Path(sys.argv[1]), documents(100))
except OutputError as error:
    print(error)
"""


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_a_write_that_fails_costs_no_row_before_it(tmp_path: Path, name: str) -> None:
    pytest.importorskip("resource", reason="this system has no limit on the size of a file")
    target = tmp_path / name
    command = [sys.executable, "-c", LIMITED, str(target)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == f"{target}: cannot be written: File too large\n"
    kept = beside(target, ".partial").read_bytes()
    rows = kept.count(b"\n")
    assert kept == lines(map(predict, documents(rows)))
    assert 5 < rows < 100
    assert work(target, documents(100)) == [f"d{i}" for i in range(rows, 100)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB, where this process may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
        made = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        made = False
    if not made:
        pytest.skip("this process may not mount a small disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_costs_no_row_before_it(small_disk: Path) -> None:
    target, source = small_disk / "out.jsonl", documents(500)
    with pytest.raises(OutputError) as caught:
        work(target, source)
    assert str(caught.value) == f"{target}: the disk is full: free some space and run again"
    kept = beside(target, ".partial").read_bytes()
    rows = kept.count(b"\n")
    assert kept == lines(map(predict, source[:rows]))
    with pytest.raises(OutputError, match="the disk is full"):
        work(target, source)
    assert beside(target, ".partial").read_bytes() == kept
    larger = ["mount", "-o", "remount,size=1m", str(small_disk)]
    subprocess.run(larger, check=True)
    assert work(target, source) == [f"d{i}" for i in range(rows, 500)]
    assert target.read_bytes() == lines(map(predict, source))


def test_a_disk_that_fills_up_at_the_end_costs_nothing(small_disk: Path) -> None:
    target, source = (
        small_disk / "out.jsonl.gz",
        [Document(f"d{i}", random.Random(i).randbytes(300).hex()) for i in range(50)],
    )
    with pytest.raises(OutputError, match="the disk is full"):
        work(target, source)
    assert state(target)["finished"] is True
    assert names(small_disk) == ["out.jsonl.gz.partial", "out.jsonl.gz.run.json"]
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    assert work(target, source) == []
    assert gzip.decompress(target.read_bytes()) == lines(map(predict, source))


def test_a_link_is_written_through(tmp_path: Path) -> None:
    real, link = tmp_path / "real.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(real)
    assert work(link, documents(1)) == ["d0"]
    assert link.is_symlink()
    assert real.read_bytes() == lines(map(predict, documents(1)))
    assert work(link, documents(1)) == []


def test_targets_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="it is a folder; give a file"):
        work(tmp_path, documents(1))
    with pytest.raises(OutputError, match="its folder does not exist: create it first"):
        work(tmp_path / "no" / "out.jsonl", documents(1))


def test_what_has_a_journal(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert is_journaled(tmp_path / "file")
    assert is_journaled(str(tmp_path / "new"))
    assert not is_journaled("-")
    for name in ("stdout", "stderr", "stdin", "fd/1", "null"):
        assert not is_journaled(f"/dev/{name}") or os.name == "nt"
    for name in ("self", str(os.getpid()), "self/task/1"):
        assert not is_journaled(f"/proc/{name}/fd/1") or os.name == "nt"
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        assert not is_journaled(tmp_path / "pipe")


def test_a_file_in_memory_has_a_journal() -> None:
    if not Path("/dev/shm").is_dir():
        pytest.skip("this system has no /dev/shm")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        assert is_journaled(f"{folder}/x.jsonl")
        Path(folder, "x.jsonl").touch()
        assert is_journaled(f"{folder}/x.jsonl")


def test_the_format_of_a_file_that_is_read_is_told(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl.gz"
    work(target, documents(3))
    whole = target.read_bytes()
    target.write_bytes(whole[:-9] + whole[-4:])
    with pytest.raises(OutputError, match=r"out\.jsonl\.gz: cannot be read after \d rows: "):
        work(target, documents(3), resume_changed=True)
    target.write_bytes(gzip.compress(b"-" * len(gzip.decompress(whole))))
    with pytest.raises(OutputError, match="row 1 is not a prediction"):
        work(target, documents(3), resume_changed=True)
