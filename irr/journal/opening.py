"""Opening a journal: which rows are there, and what a run may do with them.

In: the files that earlier runs left, what this run is, and what its user wants. Out: an `Opened`;
files are healed, a last step that was cut short is taken, and the rows of a retry that is retried
are brought together, but nothing else is changed.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from irr.errors import OutputError
from irr.journal.paths import Paths
from irr.journal.publish import publish
from irr.journal.rows import heal, is_whole, read_rows, size_of
from irr.journal.state import (
    NO_ROWS,
    Carried,
    Checkpoint,
    RunState,
    differing,
    read_state,
    write_state,
)

__all__ = ["Opened", "Wanted", "open_rows"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to do with rows that are there; see `irr.journal.Journal`."""

    resume_changed: bool = False
    restart: bool = False
    retry_failed: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    """What is there.

    `state` is what FILE.run.json is to say before the next row is written, `there` counts the
    rows in the file that is being written, or of a run that is `finished`, in FILE.
    """

    state: RunState
    there: Checkpoint = NO_ROWS
    finished: bool = False


def open_rows(paths: Paths, run: Mapping[str, object], wanted: Wanted) -> Opened:
    """Find out what is there; the caller holds the lock.

    Raises:
        OutputError: what is there is of another run, or of none.
        OSError: it cannot be read, or not be healed.
    """
    fresh = Opened(RunState(json.loads(json.dumps(run))))
    if wanted.restart:
        return fresh
    state = read_state(paths.state)
    if state is None:
        _refuse_unknown(paths)
        return fresh
    opened = (_finished if state.finished else _unfinished)(paths, state, fresh.state.run, wanted)
    return opened or fresh


def _refuse_unknown(paths: Paths) -> None:
    for path in (paths.partial, paths.final):
        if os.path.lexists(path):
            raise OutputError(
                f"{path}: is there already, but no {paths.state.name} that says of which run: "
                "--restart replaces it; or move it away, or name another --output"
            )


def _finished(
    paths: Paths, state: RunState, run: Mapping[str, object], wanted: Wanted
) -> Opened | None:
    last = paths.writing(state)
    size = size_of(last)
    if size is None and not paths.final.exists():
        return None  # Moved or removed: nothing could be lost.
    if size is not None and size != state.checkpoint.bytes:
        raise OutputError(
            f"{last}: is there beside the rows of a finished run: move it away, or --restart "
            "replaces both"
        )
    if size is not None:
        publish(last, paths.final)
    elif not is_whole(paths.final, state.checkpoint):
        raise OutputError(
            f"{paths.final}: has been changed since the run was finished: it does not have the "
            f"{state.checkpoint.rows} rows that {paths.state.name} tells of: put them back, or "
            "--restart begins anew"
        )
    paths.discard_carried(state)
    current = _of_this_run(paths, state, run, wanted)
    retry = wanted.retry_failed and state.checkpoint.failed > 0
    # Whether further documents have come is seen only when they are read.
    if current is state and not retry and not wanted.resume_changed:
        return Opened(state, state.checkpoint, finished=True)
    return _carry_over(current, "output", state.checkpoint, retry=retry)


def _unfinished(
    paths: Paths, state: RunState, run: Mapping[str, object], wanted: Wanted
) -> Opened | None:
    writing = paths.writing(state)
    there = heal(writing, state.checkpoint) or NO_ROWS
    source = paths.source(state)
    if not there.rows and (source is None or not source.exists()):
        return None
    state = _of_this_run(paths, state, run, wanted)
    if not there.input_digest:
        state = replace(state, checkpoint=NO_ROWS)
    if state.carried is not None and state.carried.source == "partial":
        heal(paths.partial, state.carried.checkpoint)
    if wanted.retry_failed and there.failed:
        if state.carried is not None:
            state, there = _join(paths, state, state.carried, there)
        return _carry_over(state, "partial", there, retry=True)
    logger.info("continuing after the %d rows in %s", there.rows, writing)
    return Opened(state, there)


def _join(
    paths: Paths, state: RunState, carried: Carried, there: Checkpoint
) -> tuple[RunState, Checkpoint]:
    """Copy the rows that are not carried yet, so that FILE.partial has all of them.

    Killed at any moment, this leaves the rows that are there, and can be done again.
    """
    writing, source = paths.writing(state), paths.source(state)
    assert source is not None
    known, rows, size, failed = state.checkpoint, there.rows, there.bytes, there.failed
    with writing.open("r+b") as stream:
        stream.seek(size)
        for row in islice(read_rows(source), rows, None):
            size += stream.write(row.line + b"\n")
            rows, failed = rows + 1, failed + row.failed
            if rows == carried.checkpoint.rows:
                known = Checkpoint(rows, size, failed, carried.checkpoint.input_digest)
        stream.flush()
        os.fsync(stream.fileno())
    if writing != paths.partial:
        writing.replace(paths.partial)
    state = replace(state, checkpoint=known, carried=None)
    write_state(paths.state, state)
    return state, Checkpoint(rows, size, failed)


def _of_this_run(
    paths: Paths, state: RunState, run: Mapping[str, object], wanted: Wanted
) -> RunState:
    """The state with this `run`; itself where that is the same."""
    names = differing(state.run, run)
    if not names:
        return state
    if not wanted.resume_changed:
        are = "are not those" if len(names) > 1 else "is not the one"
        raise OutputError(
            f"{paths.name}: {_listed(names)} {are} the file was begun with: --restart begins "
            "anew, --resume-changed keeps its rows and goes on, or name another --output"
        )
    earlier = {"rows": state.checkpoint.rows, "run": dict(state.run)}
    return replace(state, run=run, earlier_runs=(*state.earlier_runs, earlier))


def _carry_over(state: RunState, source: str, there: Checkpoint, *, retry: bool) -> Opened:
    """Plan a new file, into which the rows that are there are carried."""
    if retry:
        logger.warning("predicting %d failed rows of %d again", there.failed, there.rows)
    carried = Carried(source, retry, state.checkpoint)
    return Opened(replace(state, checkpoint=NO_ROWS, finished=False, carried=carried))


def _listed(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
