from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from dspy import lm15
from scripted_server import Reply, ScriptedServer

from irr.errors import ConfigurationError, LMError, OutputError, ReplyError
from irr.ledger import (
    Budget,
    BudgetError,
    Counts,
    Ledger,
    Price,
    key_of,
    read_prices,
)
from irr.ledger import (
    Reply as Kept,
)
from irr.lm import ATTEMPTS, Engine, NotAskedError, count_usage, read_completion
from irr.types import Usage

Serve = Callable[..., ScriptedServer]


def engine_of(server: ScriptedServer, ledger: Ledger, role: str = "student") -> Engine:
    ledger.open_account(role, "tiny")
    return Engine(server.url, "key", timeout=5, max_in_flight=4, ledger=ledger, role=role)


def ask(engine: Engine, text: str = "hello") -> str | None:
    request = lm15.Request(model="openai/tiny", messages=(lm15.Message.user(text),))
    return asyncio.run(engine.acomplete(request)).message.text


def test_a_reply_is_paid_for_once_also_by_another_run(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda call: f"reply {call.number}")
    for _ in range(2):
        ledger = Ledger(tmp_path / "replies.sqlite")
        engine = engine_of(server, ledger)
        assert [ask(engine), ask(engine), ask(engine, "else")] == ["reply 0", "reply 0", "reply 1"]
        ledger.close()
    assert len(server.calls) == 2
    assert ledger.counts()["student"].calls == 0
    assert ledger.counts()["student"].kept == 3


def test_roles_do_not_share_replies_and_addresses_do(serve: Serve) -> None:
    first, second = serve(lambda call: "first"), serve(lambda call: "second")
    ledger = Ledger()
    assert ask(engine_of(first, ledger)) == "first"
    assert ask(engine_of(second, ledger)) == "first"
    assert ask(engine_of(second, ledger, "teacher")) == "second"
    assert len(first.calls) == len(second.calls) == 1


def test_a_reply_that_was_cut_off_is_kept_too(serve: Serve) -> None:
    server = serve(lambda call: Reply("[1", finish_reason="length"))
    engine = engine_of(server, Ledger())
    for _ in range(2):
        with pytest.raises(ReplyError, match="cut off"):
            ask(engine)
    assert len(server.calls) == 1


def test_counts_and_cost_are_the_servers(serve: Serve, no_waiting: list[float]) -> None:
    server = serve(lambda call: Reply(status=500) if call.number == 0 else "x" * 40)
    ledger = Ledger(prices={"tiny": Price(2.0, 10.0)})
    ask(engine_of(server, ledger), "y" * 400)
    cost = (server.input_tokens * 2 + server.output_tokens * 10) / 1e6
    assert ledger.counts()["student"] == Counts(
        2, 0, 1, server.input_tokens, server.output_tokens, pytest.approx(cost)
    )


def test_without_a_price_no_cost_is_invented(serve: Serve) -> None:
    ledger = Ledger()
    ask(engine_of(serve(lambda call: "x"), ledger))
    assert ledger.counts()["student"].cost is None


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (Budget(max_calls=2), "2 calls"),
        (Budget(max_cost=0.00001), r"\$1e-05"),
        (Budget(max_minutes=0), "0 minutes"),
    ],
)
def test_a_spent_budget_stops_every_call(serve: Serve, budget: Budget, message: str) -> None:
    server = serve(lambda call: "x" * 40)
    ledger = Ledger(budget=budget, prices={"tiny": Price(1.0, 1.0)})
    engine = engine_of(server, ledger)
    with pytest.raises(BudgetError, match=f"the budget of {message} (is spent|does not pay)"):
        for number in range(5):
            ask(engine, str(number))
    made = len(server.calls)
    assert made <= 2
    with pytest.raises(BudgetError):
        ask(engine, "more")
    assert len(server.calls) == made
    assert ledger.counts()["student"].calls == made


def test_a_fatal_error_ends_the_run(serve: Serve) -> None:
    server = serve(lambda call: Reply("no", status=401))
    engine = engine_of(server, Ledger())
    for number in range(3):
        with pytest.raises(LMError, match="key was refused"):
            ask(engine, str(number))
    assert len(server.calls) == 1


def test_nothing_secret_is_in_the_file(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "replies.sqlite"
    server = serve(lambda call: "x")
    ledger = Ledger(path)
    ledger.open_account("student", "tiny")
    engine = Engine(
        server.url, "sk-canary", timeout=5, max_in_flight=4, ledger=ledger, role="student"
    )
    ask(engine)
    ledger.close()
    content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"canary" not in content
    assert b"127.0.0.1" not in content


def test_a_file_that_is_no_ledger(tmp_path: Path) -> None:
    path = tmp_path / "replies.sqlite"
    path.write_bytes(b"something else entirely, and long enough to be looked at" * 20)
    with pytest.raises(OutputError, match="cannot keep LM replies"):
        Ledger(path)


def test_a_limit_on_cost_needs_a_price() -> None:
    ledger = Ledger(budget=Budget(max_cost=1.0))
    with pytest.raises(ConfigurationError, match="needs the price of 'tiny'"):
        ledger.open_account("student", "tiny")


def test_prices(tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    path.write_text('{"tiny": {"input": 0.15, "output": 0.6}}')
    assert read_prices(path) == {"tiny": Price(0.15, 0.6)}


@pytest.mark.parametrize("content", ["", "[1]", '{"a": 1}', '{"a": {"input": "x", "output": 1}}'])
def test_bad_prices(tmp_path: Path, content: str) -> None:
    path = tmp_path / "prices.json"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match="no prices"):
        read_prices(path)


def test_a_limit_on_cost_counts_what_is_under_way(serve: Serve) -> None:
    server = serve(lambda call: Reply("x" * 240, delay=0.05))
    ledger = Ledger(budget=Budget(max_cost=0.0006), prices={"openai/tiny": Price(1.0, 1.0)})
    engine = engine_of(server, ledger)

    async def many() -> list[object]:
        messages = [lm15.Message.user(f"{n} " + "y" * 400) for n in range(20)]
        requests = [lm15.Request(model="openai/tiny", messages=(m,)) for m in messages]
        calls = (engine.acomplete(request) for request in requests)
        return await asyncio.gather(*calls, return_exceptions=True)

    results = asyncio.run(many())
    cost = ledger.counts()["student"].cost
    assert cost is not None
    assert 0.0003 < cost <= 0.0006
    assert any(isinstance(result, BudgetError) for result in results)


def test_two_runs_do_not_share_a_file(tmp_path: Path) -> None:
    first = Ledger(tmp_path / "replies.sqlite")
    with pytest.raises(OutputError, match="another run is using it"):
        Ledger(tmp_path / "replies.sqlite")
    first.close()
    Ledger(tmp_path / "replies.sqlite").close()


def test_a_server_that_died_ends_the_run(serve: Serve, no_waiting: list[float]) -> None:
    server = serve(lambda call: "hi")
    ledger = Ledger()
    engine = engine_of(server, ledger)
    assert ask(engine) == "hi"
    server.__exit__()
    for text in ("a", "b"):
        with pytest.raises(LMError, match="no answer from"):
            ask(engine, text)
    assert ledger.stopped is not None
    # What reached nobody was no call.
    assert ledger.counts()["student"].calls == 1


def test_calls_that_fail_again_and_again_end_the_run(serve: Serve, no_waiting: list[float]) -> None:
    server = serve(lambda call: Reply(status=503))
    ledger = Ledger()
    engine = engine_of(server, ledger)
    for number in range(12):
        with pytest.raises(LMError, match="HTTP 503"):
            ask(engine, str(number))
    assert len(server.calls) == 8 * ATTEMPTS
    assert ledger.counts()["student"].failed == 8 * ATTEMPTS


def test_the_same_request_at_the_same_time_is_sent_once(serve: Serve) -> None:
    server = serve(lambda call: Reply("hi", delay=0.1))
    engine = engine_of(server, Ledger())
    request = lm15.Request(model="openai/tiny", messages=(lm15.Message.user("same"),))

    async def many() -> None:
        await asyncio.gather(*(engine.acomplete(request) for _ in range(5)))

    asyncio.run(many())
    assert len(server.calls) == 1
    request = lm15.Request(model="openai/tiny", messages=(lm15.Message.user("other"),))
    threads = [threading.Thread(target=engine.complete, args=(request,)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.calls) == 2


def test_a_kept_reply_counts_for_its_document_and_costs_nothing(
    serve: Serve, tmp_path: Path
) -> None:
    server = serve(lambda call: "x" * 40)
    used = []
    for _ in range(2):
        ledger = Ledger(tmp_path / "replies.sqlite", prices={"tiny": Price(1.0, 1.0)})
        with count_usage() as usage:
            ask(engine_of(server, ledger))
        used.append(usage.total)
        paid = ledger.counts()["student"]
        ledger.close()
    assert used == [Usage(1, server.input_tokens, server.output_tokens)] * 2
    assert paid == Counts(kept=1)


def test_totals_are_those_of_all_processes(
    serve: Serve, tmp_path: Path, no_waiting: list[float]
) -> None:
    server = serve(lambda call: Reply(status=500) if call.number == 0 else "x" * 40)
    for text in ("one", "another"):
        ledger = Ledger(tmp_path / "replies.sqlite", prices={"tiny": Price(2.0, 10.0)})
        ask(engine_of(server, ledger), text)
        ledger.close()
    assert ledger.counts()["student"].calls == 1
    cost = (server.input_tokens * 2 + server.output_tokens * 10) / 1e6
    expected = Counts(3, 0, 1, server.input_tokens, server.output_tokens, pytest.approx(cost))
    assert ledger.totals() == {"student": expected}


def test_totals_and_replies_survive_a_kill(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda call: "x" * 40)
    path = tmp_path / "replies.sqlite"
    program = (
        "import os, signal, sys, asyncio\n"
        "from pathlib import Path\n"
        "from irr.ledger import Ledger\n"
        "from irr.lm import Engine\n"
        "ledger = Ledger(Path(sys.argv[1]))\n"
        "ledger.open_account('student', 'tiny')\n"
        "engine = Engine(sys.argv[2], 'key', timeout=5, max_in_flight=1, ledger=ledger,"
        " role='student')\n"
        "message = {'role': 'user', 'content': 'hello'}\n"
        "asyncio.run(engine.ask({'model': 'tiny', 'messages': [message]}))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(path), server.url], check=False)
    assert killed.returncode == -signal.SIGKILL
    ledger = Ledger(path)
    assert ledger.totals()["student"].calls == 1
    assert ledger.totals()["student"].output_tokens == server.output_tokens
    assert ask(engine_of(server, ledger)) == "x" * 40
    assert len(server.calls) == 1


def test_a_whole_budget_holds_over_processes(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda call: "x")
    for budget, spent in ((Budget(max_calls=3), False), (Budget(max_calls=3, whole=True), True)):
        ledger = Ledger(tmp_path / "replies.sqlite", budget=budget)
        engine = engine_of(server, ledger)
        for number in range(2):
            text = f"{budget.whole} {number}"
            if spent and number == 1:
                with pytest.raises(BudgetError, match="3 calls is spent"):
                    ask(engine, text)
            else:
                ask(engine, text)
        ledger.close()
    assert len(server.calls) == 3


def test_a_reply_put_from_outside_is_found(serve: Serve) -> None:
    server = serve(lambda call: "asked")
    ledger = Ledger(prices={"tiny": Price(1.0, 1.0)})
    wanted: list[tuple[str, dict[str, object]]] = []
    engine = engine_of(server, ledger)
    engine.collect = lambda key, body: wanted.append((key, body))
    with pytest.raises(NotAskedError):
        ask(engine)
    ((key, body),) = wanted
    assert body["messages"] == [{"role": "user", "content": "hello"}]
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    answer = {"choices": [{"message": {"content": "from a batch"}}], "usage": usage}
    ledger.put(key, read_completion(answer), role="student")
    assert ask(engine) == "from a batch"
    assert server.calls == []
    assert ledger.counts()["student"] == Counts(1, 1, 0, 7, 3, pytest.approx(1e-5))


def test_a_ledger_that_keeps_nothing_still_counts(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda call: f"reply {call.number}")
    ledger = Ledger(tmp_path / "counts.sqlite", keep=False)
    engine = engine_of(server, ledger)
    assert [ask(engine), ask(engine)] == ["reply 0", "reply 1"]
    ledger.close()
    assert Ledger(tmp_path / "counts.sqlite").totals()["student"].calls == 2


def test_every_part_of_a_reply_is_kept(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "replies.sqlite")
    ledger.open_account("student", "tiny")
    reply = Kept("é", "length", "no", 3, 4)
    ledger.put("key", reply)
    assert ledger.find("student", "key") == reply
    assert ledger.find("student", "other") is None


def test_keys_tell_roles_and_bodies_apart() -> None:
    keys = {key_of(role, body) for role in ("a", "b") for body in (b"x", b"y")}
    assert len(keys) == 4


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "replies.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE meta (name TEXT, value TEXT)")
        db.execute("INSERT INTO meta VALUES ('version', '1')")
    db.close()
    with pytest.raises(OutputError, match="replies of version 1; move the file away"):
        Ledger(path)
