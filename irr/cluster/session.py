"""Ray: a cluster of our own on this machine, or one that is there, for the time of a run.

In: `ClusterSettings`. Out: a `Session`: where the workers go, and how they are told to stop. Ray
is imported here and in the processes that it starts, nowhere else, and kept quiet: what it has to
say is in its own log files.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

from irr.errors import ConfigurationError, IrrError

__all__ = [
    "ClusterError",
    "ClusterSettings",
    "Control",
    "Session",
    "check_address",
    "ray_session",
    "share_cpus",
]

logger = logging.getLogger(__name__)

# For slices on their way; the input is read no further when it is full.
_OBJECT_STORE_BYTES = 512 << 20
_REACH_SECONDS = 10.0
_QUIET = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    # Never shown: it would come between our own lines, and on standard output.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
    "RAY_USAGE_STATS_ENABLED": "0",
}
# Else whatever still uses Ray after a run's end would start it once more.
_EXPLICIT = {"RAY_ENABLE_AUTO_CONNECT": "0"}
# Ray's servers on one machine listen on 127.0.0.1 only where it thinks that there is no network.
_LOCAL = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


class ClusterError(IrrError):
    """Ray could not be started, or gave up."""


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """On what cluster a run goes.

    Args:
        workers: processes that predict, each with a program of its own; None takes half as many
            as there are CPUs.
        address: a Ray cluster, as `ray.init` takes it; None takes that of the environment
            variable RAY_ADDRESS, or starts Ray on this machine alone for the time of the run.
        gpus: GPUs of each worker, for the encoder; 0.5 lets two share one.
        rows: documents that a worker is given at a time.
    """

    workers: int | None = None
    address: str | None = None
    gpus: float = 0.0
    rows: int | None = None


class Control:
    """What the processes of a run tell each other; a Ray actor on the driver's machine."""

    def __init__(self) -> None:
        self._stop = asyncio.Event()
        self._busy: set[int] = set()
        self._tries: dict[int, tuple[int, int]] = {}

    async def stop(self) -> None:
        """Begin no slice any more, end those in hand early."""
        self._stop.set()

    async def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    async def wait(self) -> None:
        """Return once `stop` is called."""
        await self._stop.wait()

    async def begin(self, number: int, size: int) -> int:
        """A slice is in hand, and its part has so many bytes by now.

        Returns:
            How many times it has been in hand with no more bytes than that.
        """
        self._busy.add(number)
        tries, before = self._tries.get(number, (0, -1))
        tries = tries + 1 if size <= before else 1
        self._tries[number] = tries, max(size, before)
        return tries

    async def end(self, number: int) -> None:
        """A slice is not in hand any more."""
        self._busy.discard(number)
        self._tries.pop(number, None)

    async def busy(self) -> int:
        """How many slices are in hand, or were when their worker died."""
        return len(self._busy)


@dataclass(frozen=True, slots=True)
class Session:
    """Ray, while a run is going on.

    `node` names the driver's machine; each of `workers` workers has `cpus` CPUs.
    """

    node: str
    workers: int
    cpus: int
    control: Any

    def wind_down(self, seconds: float) -> None:
        """Ask all workers to stop; return when they have, or when `seconds` are over."""
        import ray

        until = time.monotonic() + seconds
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self.control.stop.remote(), timeout=seconds)
            while time.monotonic() < until and ray.get(self.control.busy.remote(), timeout=1):
                time.sleep(0.1)

    def say_if_idle(self) -> None:
        """Warn when no worker has a slice in hand: others may be using the cluster."""
        import ray

        if ray.get(self.control.busy.remote()) == 0:
            logger.warning(
                "no worker has begun yet: Ray looks for %d times %d CPUs; 'ray status' says what "
                "is free",
                self.workers,
                self.cpus,
            )


@contextlib.contextmanager
def ray_session(settings: ClusterSettings) -> Generator[Session]:
    """Ray for the time of the block; where it runs already in this process, that is used.

    Raises:
        ConfigurationError: Ray is not installed, or the cluster too small.
        ClusterError: Ray cannot be started or reached.
    """
    address = settings.address or os.environ.get("RAY_ADDRESS")
    _prepare(local=address is None)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigurationError(
            f"--engine ray needs Ray ({error}): pip install 'irr[ray]'"
        ) from error
    _quiet_loggers()
    ours = not ray.is_initialized()
    try:
        if ours:
            _start(address, settings.workers)
        yield _session(settings)
    finally:
        if ours:
            ray.shutdown()


def share_cpus(nodes: Mapping[str, int], workers: int | None) -> tuple[int, int]:
    """How many workers a cluster takes, and how many CPUs each of them.

    Args:
        nodes: the CPUs of each machine.
        workers: how many are wanted.

    Raises:
        ConfigurationError: there are fewer CPUs than workers.

    >>> share_cpus({"a": 8, "b": 4}, 4)
    (4, 2)
    >>> share_cpus({"a": 8, "b": 4}, None)
    (6, 2)
    """
    total = sum(nodes.values())
    count = workers or max(1, total // 2)
    for cpus in range(max(nodes.values(), default=0), 0, -1):
        if sum(node // cpus for node in nodes.values()) >= count:
            return count, cpus
    raise ConfigurationError(
        f"--workers {count}: the cluster has {total} CPUs, and each worker takes one at least"
    )


def check_address(address: str) -> None:
    """Refuse an address where there is no Ray; Ray itself would look for minutes.

    Raises:
        ConfigurationError: it is one of Ray's client.
        ClusterError: nothing listens there.
    """
    if "://" in address:
        raise ConfigurationError(
            f"--ray-address {address}: start irr on a machine of the cluster, and give HOST:PORT "
            "or auto"
        )
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(f"there is no Ray cluster to use at {address}: {error}") from error


def _prepare(*, local: bool) -> None:
    """What Ray reads from the environment when it is imported and started."""
    quiet = {} if logger.isEnabledFor(logging.DEBUG) else _QUIET
    for name, value in {**_EXPLICIT, **quiet, **(_LOCAL if local else {})}.items():
        os.environ.setdefault(name, value)


def _quiet_loggers() -> None:
    if logger.isEnabledFor(logging.DEBUG):
        return
    warnings.filterwarnings("ignore", module="ray")
    logging.getLogger("ray").setLevel(logging.ERROR)
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)


def _start(address: str | None, workers: int | None) -> None:
    import ray

    where: dict[str, Any] = {"address": address}
    if address is None:
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        where = {
            "address": "local",
            "num_cpus": max(cores, workers or 1),
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
        }
    if address is not None:
        check_address(address)
    try:
        with _signals_kept(), _stderr_closed():
            ray.init(**where, log_to_driver=False, configure_logging=False)
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        what = f"{type(error).__name__}: {lines[0] if lines else ''}"
        if address is None:
            raise ClusterError(f"Ray cannot be started on this machine: {what}") from error
        raise ClusterError(f"there is no Ray cluster to use at {address}: {what}") from error


def _session(settings: ClusterSettings) -> Session:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = {
        node["NodeID"]: int(node["Resources"].get("CPU", 0))
        for node in ray.nodes()
        if node["Alive"]
    }
    workers, cpus = share_cpus(nodes, settings.workers)
    here = ray.get_runtime_context().get_node_id()
    control = ray.remote(Control).options(
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=-1,
        scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
    )
    return Session(here, workers, cpus, control.remote())


@contextlib.contextmanager
def _signals_kept() -> Generator[None]:
    """Ray takes SIGTERM over; what a run does about it stays what it was."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _stderr_closed() -> Generator[None]:
    """Inside the block nothing reaches standard error, from C++ either."""
    if logger.isEnabledFor(logging.DEBUG):
        yield
        return
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
