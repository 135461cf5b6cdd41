"""Starting the stub server of `stub_server.py` from a benchmark, and asking it what it saw."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Stub", "stub_server"]


@dataclass(frozen=True)
class Stub:
    """A running server: its API base and what it has counted."""

    url: str

    def stats(self) -> dict[str, Any]:
        """See `State.stats` in `stub_server.py`."""
        told: dict[str, Any] = self._get("/stats")
        return told

    def bodies(self) -> list[bytes]:
        """What the first requests were."""
        return [body.encode() for body in self._get("/bodies")]

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url.removesuffix("/v1") + path, timeout=60) as reply:
            return json.loads(reply.read())


@contextlib.contextmanager
def stub_server(**options: object) -> Generator[Stub]:
    """A server with the options of `stub_server.py`, in a process of its own, for the block."""
    command = [sys.executable, str(Path(__file__).with_name("stub_server.py"))]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    # It ends when its standard input is closed, also where this process is killed.
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Stub(process.stdout.readline().split()[1])
    finally:
        process.stdin.close()
        process.wait(10)
