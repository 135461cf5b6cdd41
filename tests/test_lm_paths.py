"""The two ways to an LM, DSPy's and the batch's: the same requests, and nothing left behind."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy import lm15
from scripted_server import Call, Reply, ScriptedServer

from irr.errors import ConfigurationError
from irr.infer import Infer
from irr.lm import Engine, LMSettings, count_usage, open_lm
from irr.prompts import read_prompts
from irr.rank import Rank
from irr.types import Label, Usage

Serve = Callable[..., ScriptedServer]
ROOT = Path(__file__).parents[1]
PROMPTS = read_prompts()
LABELS = [Label(f"id-{n}", f"name {n}", description="é" * n) for n in range(30)]
INFER_DEMO = {"text": "We bake.", "guesses": ["bake bread", "crème brûlée"]}
RANK_DEMO = {"text": "We bake.", "candidates": ["bake bread", "SQL"], "ranking": [1]}
CUT_OFF = Reply("[", finish_reason="length")


def infer(lm: dspy.LM, demos: list[Any], nearest: bool) -> tuple[dspy.Module, dict[str, Any]]:
    stage = Infer(PROMPTS)
    stage.predict.lm = lm
    stage.predict.demos = [] if nearest else demos
    stage.nearest = (lambda text: demos) if nearest else None
    return stage, {"text": " Über \u2028 SQL.\n"}


def rank(lm: dspy.LM, demos: list[Any], nearest: bool) -> tuple[dspy.Module, dict[str, Any]]:
    stage = Rank(PROMPTS, window=20)
    stage.predict.lm = lm
    stage.predict.demos = [] if nearest else demos
    stage.nearest = (lambda text: demos) if nearest else None
    return stage, {"text": "We use SQL.", "candidates": LABELS}


@pytest.mark.parametrize("nearest", [False, True], ids=["own demos", "nearest demos"])
@pytest.mark.parametrize("shown", [False, True], ids=["no demos", "demos"])
@pytest.mark.parametrize("reply", [Reply("what?" * 99), CUT_OFF], ids=["unreadable", "cut off"])
@pytest.mark.parametrize("temperature", [0.0, None])
@pytest.mark.parametrize(("make", "demo"), [(infer, INFER_DEMO), (rank, RANK_DEMO)])
def test_both_ways_send_the_same_bytes(
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    make: Any,
    demo: dict[str, Any],
    temperature: float | None,
    reply: Reply,
    shown: bool,
    nearest: bool,
) -> None:
    sent: list[bytes] = []
    send = Engine._send

    def remember(engine: Engine, data: bytes, key: str) -> Any:
        sent.append(data)
        return send(engine, data, key)

    monkeypatch.setattr(Engine, "_send", remember)
    server = serve(lambda call: reply)
    lm = open_lm(LMSettings("tiny", server.url, timeout=5, temperature=temperature))
    demos = [dspy.Example(**demo)] if shown else []
    stage, inputs = make(lm, demos, nearest)
    stage(**inputs)
    by_dspy = sorted(sent)
    sent.clear()
    asyncio.run(stage.acall(**inputs))
    assert sorted(sent) == by_dspy
    questions = 1 if make is infer else 2
    assert len(set(by_dspy)) == len(by_dspy) == 3 * questions


def test_three_attempts_and_the_third_may_be_good(serve: Serve) -> None:
    server = serve(lambda call: '["SQL"]' if call.number == 2 else "what?" * 99)
    lm = open_lm(LMSettings("tiny", server.url, timeout=5))
    stage, inputs = infer(lm, [], False)
    assert asyncio.run(stage.acall(**inputs)).guesses == ["SQL"]
    systems = [call.messages[0]["content"] for call in server.calls]
    assert len(set(systems)) == 3
    assert [call.body["temperature"] for call in server.calls] == [0.0, 0.7, 0.7]


def test_more_room_stays_after_a_cut_off(serve: Serve) -> None:
    replies = [CUT_OFF, "what?" * 99, '["SQL"]']
    server = serve(lambda call: replies[call.number])
    lm = open_lm(LMSettings("tiny", server.url, timeout=5, max_tokens=100))
    stage, inputs = infer(lm, [], False)
    assert asyncio.run(stage.acall(**inputs)).guesses == ["SQL"]
    assert [call.body["max_tokens"] for call in server.calls] == [100, 400, 400]


def test_openai_itself_is_sent_its_own_name_for_the_limit() -> None:
    engine = Engine("https://api.openai.com/v1", "key", timeout=5, max_in_flight=1)
    wire = engine._wire({"model": "m", "messages": [], "max_tokens": 9})
    assert wire == {"model": "m", "messages": [], "max_completion_tokens": 9}


def test_an_lm_of_another_make_is_refused() -> None:
    stage = Infer(PROMPTS)
    stage.predict.lm = dspy.LM("openai/tiny", api_key="x")
    with pytest.raises(ConfigurationError, match=r"irr\.lm\.open_lm"):
        asyncio.run(stage.acall(text="x"))


def test_what_a_thread_asks_counts_where_it_asks(serve: Serve) -> None:
    server = serve(lambda call: "x" * 40)
    engine = Engine(server.url, "key", timeout=5, max_in_flight=4)
    message = (lm15.Message.user("hello"),)
    with count_usage() as count:
        engine.complete(lm15.Request(model="openai/tiny", messages=message))
    assert count.total == Usage(1, server.input_tokens, server.output_tokens)


SYNC = """
import sys
from dspy import lm15
from irr.lm import Engine
engine = Engine(sys.argv[1], "key", timeout=60, max_in_flight=1)
try:
    request = lm15.Request(model="openai/tiny", messages=(lm15.Message.user("hello"),))
    print(engine.complete(request).message.text)
except KeyboardInterrupt:
    sys.exit("interrupted")
"""
ASYNC = """
import asyncio, sys
from irr.lm import Engine
engine = Engine(sys.argv[1], "key", timeout=60, max_in_flight=1)
body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
print(asyncio.run(engine.ask(body)).content)
"""


@pytest.mark.parametrize("program", [SYNC, ASYNC], ids=["sync", "async"])
def test_nothing_is_said_about_open_connections_at_exit(serve: Serve, program: str) -> None:
    server = serve(lambda call: "hi")
    command = [sys.executable, "-X", "dev", "-W", "ignore::DeprecationWarning", "-c", program]
    done = subprocess.run(
        [*command, server.url], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == "hi\n"
    assert "Unclosed" not in done.stderr
    assert "ResourceWarning" not in done.stderr
    assert done.returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT can be sent there")
def test_ctrl_c_interrupts_a_thread_that_waits_for_an_answer(serve: Serve) -> None:
    asked = threading.Event()

    def script(call: Call) -> Reply:
        asked.set()
        return Reply(hang=True)

    server = serve(script)
    with subprocess.Popen(
        [sys.executable, "-c", SYNC, server.url], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        assert asked.wait(30)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert said.strip() == "interrupted"
