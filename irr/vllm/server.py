"""A vLLM that lives as long as a run: started by way of a guard, waited for, watched, ended.

In: a model's name. Out: the address of a server that is ready, and one line where it is not. The
guard (`irr.vllm.guard`) sees to it that no process stays, however this one ends.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO
from urllib.parse import urlsplit

from irr.errors import ConfigurationError, LMError
from irr.vllm.command import environment_for, find_executable, serve_command, user_flags
from irr.vllm.process import GuardedProcess, new_log, reserve_port
from irr.vllm.progress import ProgressLine
from irr.vllm.reading import PORT_TAKEN, phase_of, reason_of

__all__ = ["PREFIX", "VLLMServer", "local_servers", "prefix_cache_hits", "start_vllm"]

PREFIX = "vllm/"
PATIENCE = 900.0
_PORT_ATTEMPTS = 3
_BETWEEN_LOOKS = 0.2
# Of a log at its end: enough for what vLLM says when it goes.
_LOG_END = 1 << 20
_PROGRESS_END = 1 << 16


class VLLMServer:
    """A server that is running. A context manager; `start_vllm` makes it.

    `url` is its API base, `model` the name under which it has the model, `log` the file that it
    writes to. The file goes with the server, unless the server or an LM call failed.
    """

    def __init__(
        self, model: str, port: int, *, held: socket.socket, process: GuardedProcess, log: Path
    ) -> None:
        self.model = model
        self.port = port
        self.log = log
        self._held = held
        self._process = process
        self._closed = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def name(self) -> str:
        """The `irr.lm.LMSettings.name` that asks this model, with `url` as `api_base`.

        ``openai/`` stands before it because models such as openai/gpt-oss-20b have it in their
        own names.
        """
        return f"openai/{self.model}"

    def failure(self) -> str | None:
        """Why the server is gone, in one line that names its log; None while it runs."""
        status = self._process.status()
        if status is None or self._closed:
            return None
        reason = reason_of(_end_of(self.log, _LOG_END), model=self.model, status=status)
        return f"the local vLLM with {self.model} has ended: {reason} (its log: {self.log})"

    def close(self, *, keep_log: bool = False) -> None:
        """End the server and all its processes. Its log stays if it failed, or by `keep_log`."""
        if self._closed:
            return
        failed = self._process.status() is not None
        self._closed = True
        try:
            self._process.end()
        finally:
            self._held.close()
            if not (failed or keep_log):
                self.log.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(keep_log=isinstance(exception, LMError))


def start_vllm(
    model: str,
    *,
    args: Sequence[str] = (),
    patience: float | None = None,
    progress: TextIO | None = None,
) -> VLLMServer:
    """Start a vLLM with `model` on this machine and wait until it answers.

    Args:
        model: a name on the Hugging Face hub, or a folder.
        args: flags for ``vllm serve``, after those of ``$IRR_VLLM_ARGS``; both win over ours.
        patience: the longest wait in seconds; ``$IRR_VLLM_PATIENCE``, else 900, if None.
        progress: where to show how far the start has come, such as standard error.

    Raises:
        ConfigurationError: there is no vLLM to run, or a setting makes no sense.
        LMError: it did not start; the message says why, how to mend it, and names the log.
    """
    if os.name == "nt":
        raise ConfigurationError(
            "vLLM does not run on Windows: run it under WSL or elsewhere and give --api-base URL"
        )
    model = _checked_model(model)
    executable, flags = find_executable(), user_flags(args)
    deadline = time.monotonic() + (patience := _patience(patience))
    line = ProgressLine(model, progress)
    try:
        for attempt in range(_PORT_ATTEMPTS):
            server = _launch(executable, model, flags)
            try:
                _wait_until_ready(server, line, deadline, patience)
                return server
            except _PortTakenError:
                server.close()
                if attempt == _PORT_ATTEMPTS - 1:
                    raise
                server.log.unlink(missing_ok=True)
            except BaseException as error:
                server.close(keep_log=isinstance(error, LMError))
                raise
    finally:
        line.end()
    raise AssertionError("the last attempt returns or raises")


@contextlib.contextmanager
def local_servers(
    names: Iterable[str | None], *, progress: TextIO | None = None
) -> Iterator[dict[str, VLLMServer]]:
    """A server for each different ``vllm/MODEL`` among `names`, by that name, while in the block.

    Other names need none. Raises what `start_vllm` raises.
    """
    with contextlib.ExitStack() as stack:
        servers: dict[str, VLLMServer] = {}
        for name in dict.fromkeys(names):
            if name is not None and name.startswith(PREFIX):
                server = start_vllm(name.removeprefix(PREFIX), progress=progress)
                servers[name] = stack.enter_context(server)
        yield servers


def prefix_cache_hits(url: str) -> tuple[int, int]:
    """(tokens found, tokens looked up) in the prefix cache since the server's start.

    Args:
        url: the server's API base, or its address without the path.

    Raises:
        LMError: the server does not answer, or does not count them.
    """
    address = urlsplit(url)
    try:
        _, body = _get(address.hostname or "", address.port or 80, "/metrics")
    except OSError as error:
        raise LMError(f"{url} does not answer: {error}", retryable=True) from error
    counts = []
    for what in ("hits", "queries"):
        counter = rf"^vllm:prefix_cache_{what}_total(?:\{{.*\}})? (\S+)$"
        found = re.findall(counter, body.decode(), re.MULTILINE)
        if not found:
            raise LMError(f"{url} does not count its prefix cache: it is no vLLM of today")
        counts.append(round(sum(map(float, found))))
    return counts[0], counts[1]


class _PortTakenError(LMError):
    """Another program has the port that was chosen."""


def _launch(executable: str, model: str, flags: Sequence[str]) -> VLLMServer:
    log = new_log()
    held, port = reserve_port()
    command = serve_command(executable, model, port, flags)
    try:
        process = GuardedProcess(command, environment_for(executable), log)
    except BaseException:
        held.close()
        log.unlink(missing_ok=True)
        raise
    return VLLMServer(model, port, held=held, process=process, log=log)


def _wait_until_ready(
    server: VLLMServer, line: ProgressLine, deadline: float, patience: float
) -> None:
    """Return when the server answers, and learn the model's name from it."""
    while True:
        if server.failure():
            raise _not_started(server)
        line.show(phase_of(_end_of(server.log, _PROGRESS_END)))
        with contextlib.suppress(OSError, http.client.HTTPException):
            if _get("127.0.0.1", server.port, "/health")[0] == 200:
                server.model = _served_name(server)
                return
        if time.monotonic() > deadline:
            phase = phase_of(_end_of(server.log, _PROGRESS_END))
            raise LMError(
                f"vLLM with {server.model} was not ready after {patience:.0f} s"
                f"{f' ({phase})' if phase else ''}: set IRR_VLLM_PATIENCE to more seconds, or "
                f"download the model first (its log: {server.log})",
                fatal=True,
            )
        time.sleep(_BETWEEN_LOOKS)


def _not_started(server: VLLMServer) -> LMError:
    log = _end_of(server.log, _LOG_END)
    status = server._process.status() or 0
    reason = reason_of(log, model=server.model, status=status)
    kind = _PortTakenError if PORT_TAKEN.search(log) else LMError
    return kind(
        f"vLLM with {server.model} did not start: {reason} (its log: {server.log})", fatal=True
    )


def _served_name(server: VLLMServer) -> str:
    """The name that requests must give, which ``--served-model-name`` may have changed."""
    status, body = _get("127.0.0.1", server.port, "/v1/models")
    try:
        return str(json.loads(body)["data"][0]["id"])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise LMError(
            f"the vLLM on port {server.port} does not name its model (HTTP {status}): "
            f"set IRR_VLLM to another version (its log: {server.log})",
            fatal=True,
        ) from error


def _get(host: str, port: int, path: str) -> tuple[int, bytes]:
    """(status, body). Never through a proxy: this machine is asked."""
    connection = http.client.HTTPConnection(host, port, timeout=10.0)
    with contextlib.closing(connection):
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read()


def _end_of(path: Path, most: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - most))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


def _checked_model(model: str) -> str:
    if not model or model.startswith("-"):
        raise ConfigurationError(
            f"'{PREFIX}{model}' names no model: write vllm/ORGANISATION/MODEL, "
            "such as vllm/Qwen/Qwen3-8B, or vllm/FOLDER"
        )
    if not model.startswith(("/", ".", "~")):
        return model
    folder = Path(model).expanduser()
    if not folder.exists():
        raise ConfigurationError(f"'{PREFIX}{model}': there is no folder {folder}")
    return str(folder)


def _patience(given: float | None) -> float:
    if given is not None:
        return given
    told = os.environ.get("IRR_VLLM_PATIENCE", "")
    try:
        seconds = float(told or PATIENCE)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise ConfigurationError(f"IRR_VLLM_PATIENCE={told}: give a number of seconds")
    return seconds
