"""Lets a server live no longer than the process that wants it. A program, run by its path.

    python -I -S guard.py OWNER GRACE LOG COMMAND…

In: standard input is a pipe that OWNER (a process id) holds open and never writes to. COMMAND
writes to the file LOG and has a process group of its own, so that Ctrl-C at the terminal does not
reach it. Out: one line on standard output, its process id or ``error`` and why it cannot be run;
then the exit status of COMMAND, 128 + n where a signal n ended it.

When the pipe closes, OWNER dies or COMMAND ends, the whole group gets SIGTERM, and SIGKILL after
GRACE seconds. On Linux, COMMAND is also ended by the kernel if this process is killed, and those
of its descendants that left the group end with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

_SET_DEATH_SIGNAL, _SET_SUBREAPER = 1, 36
# Orphans of a process that is gone have nothing left to finish.
_GRACE_OF_ORPHANS = 1.0
# The kernel may need this long to take apart a process that holds much memory.
_AFTER_KILL = 10.0
_TICK = 0.02


def main(arguments: list[str]) -> int:
    """Run until the command or its owner ends; see the module's docstring."""
    owner, grace, log, *command = arguments
    told_to_end, bell = _watch_signals()
    _prctl(_SET_SUBREAPER, 1)
    try:
        server = _start(command, log)
    except OSError as error:
        _tell(f"error {error.strerror or error}")
        return 127
    family = Family(server)
    _tell(str(server))
    while family.status is None and not told_to_end and os.getppid() == int(owner):
        ready, _, _ = select.select([0, bell], [], [], 1.0)
        if 0 in ready:
            break
        if bell in ready:
            os.read(bell, 1024)
        family.reap()
    family.end(float(grace) if family.status is None else _GRACE_OF_ORPHANS)
    status = family.status or 0
    return status if status >= 0 else 128 - status


class Family:
    """The process group of the server, and orphans of it that came to this process."""

    def __init__(self, server: int) -> None:
        self._server = server
        self.status: int | None = None

    def reap(self) -> bool:
        """Collect who has ended, the server's `status` too; True while anybody is left."""
        try:
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self._server:
                    self.status = os.waitstatus_to_exitcode(ended[1])
        except ChildProcessError:
            return self._signal(0)
        return True

    def end(self, grace: float) -> None:
        """SIGTERM to all, then SIGKILL to those who are left after `grace` seconds."""
        for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, _AFTER_KILL)):
            self._signal(number)
            told: set[int] = set()
            deadline = time.monotonic() + patience
            while self.reap() and time.monotonic() < deadline:
                for stray in self._strays() - told:
                    told.add(stray)
                    with contextlib.suppress(OSError):
                        os.kill(stray, number)
                time.sleep(_TICK)

    def _signal(self, number: int) -> bool:
        """Send to the group; False where there is none left."""
        try:
            os.killpg(self._server, number)
        except OSError:
            return False
        return True

    def _strays(self) -> set[int]:
        """Adopted orphans that had left the group."""
        try:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
        except OSError:
            return set()
        strays = set()
        for child in map(int, children.split()):
            with contextlib.suppress(OSError):
                if os.getpgid(child) != self._server:
                    strays.add(child)
        return strays


def _start(command: list[str], log: str) -> int:
    """Start the command and return its process id, which is its group's too."""
    guard = os.getpid()

    def end_with_guard() -> None:
        _prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != guard:
            os._exit(1)

    with Path(log).open("ab") as sink:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
            preexec_fn=end_with_guard,
        )
    # It is `Family` that waits for it.
    server.returncode = 0
    return server.pid


def _watch_signals() -> tuple[list[int], int]:
    """(a list that fills with signals to end, a descriptor that can be read after any signal)."""
    told_to_end: list[int] = []
    bell, ringer = os.pipe()
    os.set_blocking(ringer, False)
    signal.set_wakeup_fd(ringer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _: told_to_end.append(received))
    return told_to_end, bell


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # Linux only
        _LIBC.prctl(option, value, 0, 0, 0)


def _tell(line: str) -> None:
    # An owner that is gone hears nothing; that it is gone is noticed all the same.
    with contextlib.suppress(OSError):
        os.write(1, f"{line}\n".encode())


# Loaded before any fork.
_LIBC = ctypes.CDLL(None)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
