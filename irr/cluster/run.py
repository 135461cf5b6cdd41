"""`predict_on_ray`: a run of predict on the workers of a Ray cluster.

In: as `irr.runs.run_to_file`, and the cluster. Out: the same rows in the same journal. The
driver reads the input once to cut it (in a process of its own, through Ray Data, which never
reads far ahead of the workers), and a second time as it merges the parts.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from irr.cluster.merge import Merging
from irr.cluster.parts import Parts, Spent
from irr.cluster.session import ClusterError, ClusterSettings, Session, ray_session
from irr.cluster.slices import ROWS, Done
from irr.cluster.worker import KEYS, MakeProgram, Setup, Worker, read_slices, run_of
from irr.documents import read_documents
from irr.errors import ConfigurationError, OutputError
from irr.journal import Journal
from irr.ledger import Budget, Price
from irr.pipeline import PATIENCE, Stop
from irr.program import InferRetrieveRank
from irr.runs import ErrorLimit, RunSettings
from irr.types import Prediction

__all__ = ["predict_on_ray", "remove_parts"]

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.2
_WORTH_SAYING = 60.0


def predict_on_ray(
    program: InferRetrieveRank,
    make_program: MakeProgram,
    source: str | Path,
    journal: Journal,
    settings: RunSettings,
    cluster: ClusterSettings | None = None,
    *,
    add: Callable[[Prediction], None],
    stop: Stop | None = None,
    spent: Spent | None = None,
    prices: Mapping[str, Price] | None = None,
    budget: Budget | None = None,
) -> None:
    """Predict the documents that have no row yet, within an open journal, on many machines.

    All machines see the same folders: that of the journal, and what `make_program` reads. Killed
    at any moment, here or there, the same run goes on where it was: a worker's part outlives it.
    Keys of LMs are taken from the environment here where a worker's has none.

    Args:
        program: the program here; it is not run, but says what the run is.
        make_program: makes the same one in a worker's process; is sent there.
        source: what `read_documents` reads, a file or folder on this machine.
        journal: the one of `irr.runs.open_journal` for `program`.
        settings: of the run.
        cluster: where it runs.
        add: is shown every row that was written.
        stop: ends the run early, within ten seconds.
        spent: is told what the run costs in all.
        prices: of the LMs, see `irr.ledger.Ledger`.
        budget: must be without limits.

    Raises:
        TooManyFailedError: see `RunSettings.max_error_rate`.
        ConfigurationError: something that does not go together with a cluster, or Ray is missing.
        ClusterError: Ray gave up.
        IrrError: whatever ended the run early; finished rows are in the journal and the parts.
    """
    _refuse(source, settings, budget or Budget())
    parts, cluster, stop = Parts(journal.name), cluster or ClusterSettings(), stop or Stop()
    limit = ErrorLimit(settings.max_error_rate, journal.rows, journal.failed)

    def count(prediction: Prediction) -> None:
        add(prediction)
        limit.add(prediction)

    merging = Merging(journal, read_documents(source), parts, count)
    if merging.position is None:
        return
    plan = parts.begin(merging.position, cluster.rows or ROWS, restart=settings.restart)
    merging.begin(plan)
    spent = spent or Spent()
    spent.begin(plan)
    setup = _setup(program, make_program, journal, settings, prices or {})
    reading = {"source": str(source), "position": merging.position, "plan": plan}
    with ray_session(cluster) as session:
        setup = replace(setup, threads=session.cpus)
        work = _Work(_dataset(session, setup, reading, cluster.gpus))
        try:
            _take_all(session, work, merging, spent, stop)
        except Exception:
            _keep(session, work, parts)
            raise
        if stop.requested.is_set():
            _keep(session, work, parts)
        elif merging.position is not None:
            raise OutputError(f"{source}: has changed while it was read: run the same again")


def remove_parts(output: str | Path) -> None:
    """Remove what a run that is finished has left beside its output."""
    Parts(output).discard()


def _refuse(source: str | Path, settings: RunSettings, budget: Budget) -> None:
    path = Path(source)
    if str(source) == "-" or (path.exists() and not (path.is_dir() or path.is_file())):
        raise ConfigurationError(
            f"--engine ray reads the input twice: give a file or a folder, not {str(source)!r}"
        )
    if settings.retry_failed:
        raise ConfigurationError(
            "--retry-failed is for one machine: run the same command without --engine ray"
        )
    if budget.max_calls is not None or budget.max_cost is not None:
        raise ConfigurationError(
            "--max-calls and --max-cost hold on one machine only: leave them out, look at "
            "--dry-run first, and set a limit at the LM's provider; or leave --engine ray out"
        )


def _setup(
    program: InferRetrieveRank,
    make_program: MakeProgram,
    journal: Journal,
    settings: RunSettings,
    prices: Mapping[str, Price],
) -> Setup:
    return Setup(
        make_program=make_program,
        run=run_of(program, settings),
        settings=settings,
        output=os.path.realpath(journal.name),
        threads=1,
        folder=str(Path.cwd()),
        host=socket.gethostname(),
        prices=prices,
        keys={name: os.environ[name] for name in KEYS if name in os.environ},
    )


def _dataset(session: Session, setup: Setup, reading: dict[str, Any], gpus: float) -> Any:
    """What becomes of each slice of the input; nothing is done before it is iterated over."""
    import ray.data
    from ray.data import DataContext

    context = DataContext.get_current().copy()
    context.target_max_block_size = 1  # Each slice, and what became of it, is handed on at once.
    context.enable_progress_bars = False
    with DataContext.current(context):
        return (
            ray.data.from_items([0], override_num_blocks=1)
            .map_batches(
                read_slices,
                batch_size=1,
                batch_format="numpy",
                num_cpus=0,
                label_selector={"ray.io/node-id": session.node},
                fn_kwargs={**reading, "output": setup.output, "control": session.control},
            )
            .map_batches(
                Worker,
                batch_size=1,
                batch_format="numpy",
                num_cpus=session.cpus,
                num_gpus=gpus or None,
                compute=ray.data.ActorPoolStrategy(
                    size=session.workers, max_tasks_in_flight_per_actor=1
                ),
                fn_constructor_args=(setup, session.control),
            )
        )


class _Work:
    """The work of the cluster, in a thread of its own: waiting for Ray cannot be interrupted."""

    def __init__(self, dataset: Any) -> None:
        self._results: queue.SimpleQueue[Done | Exception | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._consume, args=(dataset,), daemon=True)
        self._thread.start()

    def take(self, seconds: float) -> Done | None:
        """What became of a slice, as soon as that is known; None when there are no more.

        Raises:
            queue.Empty: nothing became known in so many seconds.
            ClusterError: Ray gave up.
        """
        result = self._results.get(timeout=seconds)
        if isinstance(result, Exception):
            raise ClusterError(_gave_up(result)) from result
        return result

    def wait(self, seconds: float) -> None:
        """Wait for the end of the work."""
        self._thread.join(seconds)

    def _consume(self, dataset: Any) -> None:
        try:
            for batch in dataset.iter_batches(
                batch_size=None, batch_format="numpy", prefetch_batches=0
            ):
                for done in batch["done"]:
                    self._results.put(Done.from_json(done))
            self._results.put(None)
        except Exception as error:
            self._results.put(error)


def _take_all(session: Session, work: _Work, merging: Merging, spent: Spent, stop: Stop) -> None:
    worth_saying = time.monotonic() + _WORTH_SAYING
    while not stop.requested.is_set():
        try:
            done = work.take(_LOOK_SECONDS)
        except queue.Empty:
            if time.monotonic() > worth_saying:
                worth_saying = math.inf
                session.say_if_idle()
            continue
        if done is None:
            return
        spent.add(done)
        if done.failure is not None and done.rows:
            raise done.failure.exception()
        # Where the input cannot be read further, what comes before is finished first.
        if done.finished or done.failure is not None:
            merging.take(done)


def _gave_up(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (
        f"Ray gave up: {type(error).__name__}: {lines[-1] if lines else ''}; finished rows are "
        "kept, the same command goes on after them"
    )


def _keep(session: Session, work: _Work, parts: Parts) -> None:
    """Let the workers end what they have in hand."""
    session.wind_down(PATIENCE)
    work.wait(0.5)
    logger.warning(
        "rows and LM replies that are not yet in their place are kept in %s", parts.folder
    )
