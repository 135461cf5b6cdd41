"""compile from the outside: killed and run again, interrupted, and looked through for secrets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from compile_world import LABELS, documents, world
from scripted_server import Call, Reply, ScriptedServer

Serve = Callable[..., ScriptedServer]
ROOT = Path(__file__).parents[1]
CANARY = "sk-canary-8f3a"


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    labels, train, dev = (tmp_path / f"{name}.jsonl" for name in ("labels", "train", "dev"))
    labels.write_text("".join(json.dumps({"id": x.id, "name": x.name}) + "\n" for x in LABELS))
    for path, rows in ((train, documents(8)), (dev, documents(6, seed=1, start=100))):
        lines = [json.dumps({"id": d.id, "text": d.text, "labels": d.gold}) for d in rows]
        path.write_text("\n".join(lines) + "\n")
    return ["--labels", str(labels), "--train", str(train), "--dev", str(dev)]


def start(
    files: list[str], server: ScriptedServer, output: Path, optimizer: str, *more: str
) -> subprocess.Popen[str]:
    lms = ["--lm", "student", "--teacher", "teacher", "--api-base", server.url]
    small = ["--trials", "2", "--demos", "2", "--candidates", "25", "--in-flight", "4"]
    what = ["--output", str(output), "--optimizer", optimizer]
    return subprocess.Popen(
        [sys.executable, "-m", "irr.compile", *files, *lms, *small, *what, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OPENAI_API_KEY": CANARY},
    )


def wait_for_calls(server: ScriptedServer, count: int, process: subprocess.Popen[str]) -> None:
    for _ in range(3000):
        if len(server.calls) >= count or process.poll() is not None:
            return
        time.sleep(0.01)
    raise AssertionError(f"only {len(server.calls)} calls")


@pytest.mark.parametrize("optimizer", ["left-to-right", "end-to-end", "knn", "mipro", "gepa"])
def test_killed_and_run_again_it_finishes_and_pays_twice_only_for_what_was_in_flight(
    files: list[str], serve: Serve, tmp_path: Path, optimizer: str
) -> None:
    script = world(hint=True)
    server = serve(lambda call: Reply(str(script(call)), delay=0.01))
    twice = 0
    for calls in (15, 35):
        process = start(files, server, tmp_path / "p", optimizer)
        wait_for_calls(server, calls, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        twice += 4
        assert not (tmp_path / "p").exists() or process.returncode == 0
    process = start(files, server, tmp_path / "p", optimizer)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "(returned)" in out
    requests = Counter(json.dumps(call.body, sort_keys=True) for call in server.calls)
    assert sum(count - 1 for count in requests.values()) <= twice
    assert (tmp_path / "p" / "CARD.md").is_file()


def test_interrupted_it_writes_the_best_so_far(
    files: list[str], serve: Serve, tmp_path: Path
) -> None:
    script = world()
    server = serve(lambda call: Reply(str(script(call)), delay=0.02))
    process = start(files, server, tmp_path / "p", "left-to-right")
    wait_for_calls(server, 40, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "interrupted; the best program so far was written" in err
    assert (tmp_path / "p" / "program.json").is_file()


def test_the_key_and_the_endpoint_are_in_no_file_and_no_output(
    files: list[str], serve: Serve, tmp_path: Path
) -> None:
    script = world()

    def failing(call: Call) -> Reply | str:
        if call.number % 7 == 3:
            return Reply(f"you sent {call.headers['authorization']}", status=400)
        return script(call)

    server = serve(failing)
    process = start(files, server, tmp_path / "p", "left-to-right", "--debug")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert server.calls[0].headers["authorization"] == f"Bearer {CANARY}"
    assert CANARY not in out + err
    for path in tmp_path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert CANARY.encode() not in content, path
            assert b"127.0.0.1" not in content, path
