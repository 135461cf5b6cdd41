"""A worker: a process of the cluster that loads the program once and is given slice after slice.

In: how to make the program, and slices. Out: for each slice a part, a journal with its ledger in
OUTPUT.parts. When the process is killed, whoever is given the slice next goes on in the part.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from irr.cluster.parts import Parts, Plan
from irr.cluster.slices import Done, Failure, Slice, cut
from irr.documents import read_documents
from irr.errors import ConfigurationError, IrrError, OutputError
from irr.journal import Journal
from irr.journal.state import differing
from irr.ledger import Ledger, Price
from irr.pipeline import Stop
from irr.runs import RunSettings, run_to_file

if TYPE_CHECKING:
    from irr.build import LMChoice
    from irr.program import InferRetrieveRank

__all__ = ["KEYS", "MakeProgram", "Setup", "Worker", "program_of_options", "read_slices", "run_of"]

# What the driver's environment says about LMs; a worker's own environment comes first.
KEYS = ("IRR_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL")
# Of a process that was killed the locks are free at once; of one on a machine that was lost, when
# the file system notices.
_LOCK_SECONDS = 120.0
# A slice that ends its worker so often, and no further than before, would end all of them.
MOST_TRIES = 5

T = TypeVar("T")


class MakeProgram(Protocol):
    """Makes the program in a worker's process: `irr.build.build_program` or `open_program` with
    their other arguments settled by `functools.partial`, or `program_of_options`.
    """

    def __call__(self, *, ledger: Ledger | None, threads: int) -> InferRetrieveRank:
        """Make it; its LMs' replies go to `ledger`, and it takes so many CPU threads."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What all workers are told.

    `run` is what the driver's program is, see `run_of`; `keys` are variables of the environment
    that are secret; relative paths are meant from `folder`.
    """

    make_program: MakeProgram
    run: Mapping[str, object]
    settings: RunSettings
    output: str
    threads: int
    folder: str
    host: str
    prices: Mapping[str, Price]
    keys: Mapping[str, str] = field(repr=False)


def program_of_options(
    arguments: argparse.Namespace, lms: LMChoice, *, ledger: Ledger | None, threads: int
) -> InferRetrieveRank:
    """The program that the command's options describe; a `MakeProgram` once both are settled."""
    from irr.options import program_from

    own = argparse.Namespace(**{**vars(arguments), "threads": arguments.threads or threads})
    return program_from(own, lms=lms, depth=arguments.top_k, ledger=ledger)


def run_of(program: InferRetrieveRank, settings: RunSettings) -> dict[str, object]:
    """What a part's journal says of the run, beside which documents it is of."""
    from irr.directory import identity

    told = {**identity(program), "top-k": settings.top_k, "trace": settings.trace}
    return cast("dict[str, object]", json.loads(json.dumps(told)))


def read_slices(
    batch: Mapping[str, Any], *, source: str, output: str, position: int, plan: Plan, control: Any
) -> Iterator[dict[str, Any]]:
    """Read the input in a process of its own, on the driver's machine: all slices to be merged.

    Args:
        batch: nothing that counts; Ray Data wants one.
        position: documents whose rows are in the run's journal. Slices of them are told of
            without their documents, unless they have a part: it is yet to be counted.

    Yields:
        Batches of one slice each. An input that cannot be read further ends with a failure.
    """
    del batch
    import ray

    parts, number, end = Parts(output), plan.merged, plan.end
    try:
        for each in cut(read_documents(source), plan.first, plan.rows):
            if each.number < plan.merged:
                continue
            if ray.get(control.is_stopped.remote()):
                return
            number, end = each.number + 1, each.first + each.rows
            there = end <= position and not parts.size(each.number)
            yield _column("slice", replace(each, documents=None) if there else each)
    except (IrrError, OSError) as error:
        yield _column("slice", Slice(number, end, failure=Failure.of(error)))


class Worker:
    """Makes parts of slices, one after the other. Ray calls it with batches of one slice.

    What goes wrong is told in `Done.failure`, also when the program could not be made.
    """

    def __init__(self, setup: Setup, control: Any) -> None:
        self._setup = setup
        self._control = control
        self._parts = Parts(setup.output)
        self._ledgers = _LedgerOfPart()
        self._stop = Stop()
        self._failure: Failure | None = None
        threading.Thread(target=self._wait_for_stop, daemon=True).start()
        try:
            self._program = self._make_program()
        except Exception as error:
            self._failure = self._told(error)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Make the part of a slice, or what is missing of it."""
        return _column("done", self._done(Slice.from_json(batch["slice"][0])))

    def _done(self, each: Slice) -> Done:
        if each.failure is not None or each.documents is None:
            finished = each.failure is None
            return Done(each.number, each.first, each.rows, finished, each.failure)
        if self._failure is not None or self._stop.requested.is_set():
            return Done(each.number, each.first, each.rows, False, self._failure)
        import ray

        size = self._parts.size(each.number)
        tries = ray.get(self._control.begin.remote(each.number, size))
        try:
            return self._part(each, tries)
        finally:
            ray.get(self._control.end.remote(each.number))

    def _part(self, each: Slice, tries: int) -> Done:
        done = Done(each.number, each.first, each.rows, False)
        if tries > MOST_TRIES:
            first, last = each.first + 1, each.first + each.rows
            message = (
                f"of the documents {first:,} to {last:,} one has ended {MOST_TRIES} worker "
                "processes: is there too little memory? with fewer --workers each has more"
            )
            return replace(done, failure=Failure(message, 1))
        try:
            with self._ledger(each.number) as ledger:
                try:
                    done = replace(done, finished=self._predict(each))
                except Exception as error:
                    done = replace(done, failure=self._told(error))
                return replace(done, totals={} if ledger is None else ledger.totals())
        except (IrrError, OSError) as error:
            return replace(done, failure=done.failure or self._told(error))

    def _predict(self, each: Slice) -> bool:
        """Predict what the part has no row of; whether it has all then."""
        wanted = self._setup.settings
        run = {**self._setup.run, "first": each.first}
        path = self._parts.rows(each.number)
        journal = self._patiently(
            lambda: Journal(path, run, resume_changed=wanted.resume_changed).__enter__()
        )
        with contextlib.ExitStack() as stack:
            stack.push(journal.__exit__)
            # The driver judges how many rows may fail, over all parts.
            settings = replace(wanted, max_error_rate=1.0)
            run_to_file(
                self._program,
                each.documents or (),
                journal,
                settings,
                add=lambda _: None,
                stop=self._stop,
            )
        return journal.finished

    @contextlib.contextmanager
    def _ledger(self, number: int) -> Iterator[Ledger | None]:
        if self._program.infer is None and self._program.rank is None:
            yield None
            return
        path = self._parts.replies(number)
        ledger = self._patiently(lambda: Ledger(path, prices=self._setup.prices))
        with contextlib.closing(ledger):
            self._ledgers.use(ledger)
            yield ledger

    def _patiently(self, opened: Callable[[], T]) -> T:
        """Open what another worker may not have let go of yet."""
        until = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                return opened()
            except OutputError as error:
                over = time.monotonic() > until or self._stop.requested.is_set()
                if over or "another run" not in str(error):
                    raise
            time.sleep(0.5)

    def _make_program(self) -> InferRetrieveRank:
        for name, value in self._setup.keys.items():
            os.environ.setdefault(name, value)
        try:
            os.chdir(self._setup.folder)
            there = self._parts.folder.is_dir()
        except OSError:
            there = False
        if not there:
            raise ConfigurationError(
                f"{self._parts.folder} or {self._setup.folder} is not there: --engine ray needs "
                "folders that all machines share"
            )
        program = self._setup.make_program(
            ledger=cast("Ledger", self._ledgers), threads=self._setup.threads
        )
        names = differing(self._setup.run, run_of(program, self._setup.settings))
        if names:
            raise ConfigurationError(
                f"{', '.join(names)}: not the same as where the run was started: install the "
                "same versions of irr and of the encoder on all machines"
            )
        return program

    def _told(self, error: Exception) -> Failure:
        failure = Failure.of(error)
        here = socket.gethostname()
        if here == self._setup.host:
            return failure
        return replace(failure, message=f"{failure.message} (on {here})")

    def _wait_for_stop(self) -> None:
        import ray

        ray.get(self._control.wait.remote())
        self._stop.request()


class _LedgerOfPart:
    """A ledger to the engines of a program that is loaded once: that of the part in hand."""

    def __init__(self) -> None:
        self._accounts: list[tuple[str, str]] = []
        self._current = Ledger(None)

    def use(self, ledger: Ledger) -> None:
        """Keep replies in `ledger` from now on."""
        for role, model in self._accounts:
            ledger.open_account(role, model)
        self._current = ledger

    def open_account(self, role: str, model: str) -> None:
        self._accounts.append((role, model))
        self._current.open_account(role, model)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._current, name)


def _column(name: str, row: Slice | Done) -> dict[str, Any]:
    """A batch of one row."""
    import numpy as np

    column = np.empty(1, dtype=object)
    column[0] = row.to_json()
    return {name: column}
