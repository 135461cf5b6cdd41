"""What a local server runs in: a guarded process, a port that is held for it, a file for its log.

In: a command line. Out: its process, which ends with this one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from irr.cache import store_folder
from irr.errors import ConfigurationError

__all__ = ["GuardedProcess", "new_log", "reserve_port"]

_GUARD = Path(__file__).with_name("guard.py")
# vLLM ends in some three seconds after SIGTERM.
GRACE = 10.0
_OLD_LOG_SECONDS = 30 * 24 * 3600


class GuardedProcess:
    """The guard's process, and through it the server's."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        with log.open("ab") as sink:
            # Not `-m`, which would need the package on the path and import it first.
            self._guard = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", str(_GUARD)),
                    *(str(os.getpid()), str(GRACE), str(log), *command),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                env=environment,
                start_new_session=True,
            )
        assert self._guard.stdout is not None
        with self._guard.stdout as told:
            answer = told.readline().decode().strip()
        self.group = int(answer) if answer.isdigit() else 0
        if not self.group:
            self.end()
            raise ConfigurationError(
                f"{command[0]} cannot be run ({answer.removeprefix('error ') or 'no answer'}): "
                "set IRR_VLLM to the vllm of the environment that it is installed in"
            )

    def status(self) -> int | None:
        """The server's exit status, 128 + n for a signal n; None while it runs."""
        status = self._guard.poll()
        if status is not None and status < 0:
            # Somebody killed the guard itself, so nobody has looked after the server.
            self._kill_group()
        return status if status is None or status >= 0 else 128 - status

    def end(self) -> None:
        """End the server and wait for it. A second Ctrl-C leaves the waiting to the guard."""
        assert self._guard.stdin is not None
        with contextlib.suppress(OSError):
            self._guard.stdin.close()
        try:
            self._guard.wait(3 * GRACE)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()
        self.status()

    def _kill_group(self) -> None:
        if self.group:
            with contextlib.suppress(OSError):
                os.killpg(self.group, signal.SIGKILL)
        self.group = 0


def reserve_port() -> tuple[socket.socket, int]:
    """(a socket that holds a free port of the loopback, the port).

    On Linux a server that sets SO_REUSEADDR, as all do, may take a port that is held but not
    listened at, while nobody is given it by chance. Elsewhere the socket is closed already.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    port: int = held.getsockname()[1]
    if not sys.platform.startswith("linux"):
        held.close()
    return held, port


def new_log() -> Path:
    """An empty file of the user's own; logs of failures a month ago go."""
    folder = store_folder("logs")
    if folder is not None:
        for old in folder.glob("vllm-*.log"):
            with contextlib.suppress(OSError):
                if old.stat().st_mtime < time.time() - _OLD_LOG_SECONDS:
                    old.unlink()
    descriptor, name = tempfile.mkstemp(".log", time.strftime("vllm-%Y%m%d-%H%M%S-"), folder)
    os.close(descriptor)
    return Path(name)
