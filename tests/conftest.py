"""Shared fixtures: a cache folder of the test run's own, an encoder without weights, real data."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from scripted_server import Script, ScriptedServer

# A shell has its background jobs ignore Ctrl-C, and they hand that on; tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


class HashEncoder:
    """Words as random directions: texts that share words are near. No weights, no threads.

    A stand-in where a test is about anything but the quality of vectors.
    """

    name = "hash"
    fingerprint = "0" * 64
    dimensions = 64

    def encode(self, texts: Sequence[str], *, progress: object = None, **_: object) -> np.ndarray:
        rows = np.zeros((len(texts), self.dimensions), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.casefold().split():
                seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest())
                row += np.random.default_rng(seed).standard_normal(self.dimensions)
        if callable(progress):
            progress(len(texts))
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "IRR_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def warm_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache folder for the whole run: the default encoder is exported into it once."""
    return tmp_path_factory.mktemp("irr-cache")


@pytest.fixture(autouse=True)
def _own_cache(warm_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRR_CACHE", str(warm_cache))


@pytest.fixture
def hash_encoder() -> HashEncoder:
    return HashEncoder()


@pytest.fixture
def serve() -> Iterator[object]:
    """A function from a script to a running `ScriptedServer`, ended after the test."""
    servers: list[ScriptedServer] = []

    def start(script: Script) -> ScriptedServer:
        server = ScriptedServer(script)
        server.__enter__()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.__exit__()


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Retries without their waits; what would have been waited is in the list."""
    import asyncio

    from irr.lm import Engine
    from irr.lm.limiter import Gate, Slot

    waits: list[float] = []

    async def remember(engine: object, seconds: float) -> None:
        waits.append(seconds)
        await asyncio.sleep(0)

    refused = Gate.refused

    def reopen(gate: Gate, slot: Slot, wait: float) -> None:
        refused(gate, slot, 0.0)

    monkeypatch.setattr(Engine, "_pause", remember)
    monkeypatch.setattr(Gate, "refused", reopen)
    return waits
