from __future__ import annotations

import asyncio
import email.utils
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from dspy import lm15
from scripted_server import Call, Reply, ScriptedServer

import irr.lm
from irr.errors import ConfigurationError, LMError, ReplyError
from irr.lm import (
    ContextTooLongError,
    Engine,
    LMSettings,
    RateLimitError,
    count_usage,
    open_lm,
    order,
)
from irr.types import Usage

Serve = Callable[..., ScriptedServer]

SCHEMA = {"type": "json_schema", "name": "x", "schema": {"type": "object"}}


def engine_of(server: ScriptedServer, timeout: float = 5.0, most: int = 8) -> Engine:
    return Engine(server.url, "key", model="tiny", timeout=timeout, max_in_flight=most)


def request(schema: bool = False) -> lm15.Request:
    config = lm15.Config(max_tokens=9, response_format=SCHEMA if schema else None)
    return lm15.Request(model="openai/tiny", messages=(lm15.Message.user("hello"),), config=config)


def ask(engine: Engine, *, schema: bool = False) -> str | None:
    return asyncio.run(engine.acomplete(request(schema))).message.text


def test_a_call_carries_model_key_and_limit(serve: Serve) -> None:
    server = serve(lambda call: "hi")
    assert ask(engine_of(server)) == "hi"
    (call,) = server.calls
    assert call.path == "/v1/chat/completions"
    assert call.headers["authorization"] == "Bearer key"
    assert call.body["model"] == "tiny"
    assert call.body["max_tokens"] == 9


def test_both_paths_give_the_same(serve: Serve) -> None:
    engine = engine_of(serve(lambda call: f"hi {call.number}"))
    assert engine.complete(request()).message.text == "hi 0"
    assert ask(engine) == "hi 1"


def test_usage_is_what_the_server_reports(serve: Serve) -> None:
    server = serve(lambda call: "x" * 40)
    engine = engine_of(server)

    async def twice() -> Usage:
        with count_usage() as count:
            await asyncio.gather(engine.acomplete(request()), engine.acomplete(request()))
        return count.total

    assert asyncio.run(twice()) == Usage(2, server.input_tokens, server.output_tokens)
    assert server.output_tokens == 20


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=500),
        Reply(status=503),
        Reply(status=429),
        Reply(reset=True),
        Reply("hi", cut=30),
        Reply(raw=b"no json"),
        Reply(raw=b""),
        Reply(raw=b"[]"),
        Reply(raw=b'{"choices": "none"}'),
        Reply(raw=b'{"choices": []}'),
        Reply(raw=b'{"choices": [7]}'),
        Reply(raw=b'{"choices": [{"message": "hi"}]}'),
        Reply(raw=b'{"choices": [{"message": {"content": 7}}]}'),
        Reply(raw=b'{"error": {"message": "overloaded"}}'),
    ],
    ids=str,
)
def test_faults_are_tried_again(serve: Serve, no_waiting: list[float], reply: Reply) -> None:
    server = serve(lambda call: reply if call.number < 2 else "hi")
    assert ask(engine_of(server)) == "hi"
    assert len(server.calls) == 3
    assert 0.7 <= no_waiting[0] <= 1.3 <= no_waiting[1] <= 2.6


def test_a_fault_that_stays_is_an_error(serve: Serve, no_waiting: list[float]) -> None:
    server = serve(lambda call: Reply("overloaded", status=503))
    with pytest.raises(LMError, match="answered HTTP 503: overloaded") as caught:
        ask(engine_of(server))
    assert len(server.calls) == irr.lm.ATTEMPTS
    assert not caught.value.fatal


def test_no_retry_before_retry_after(serve: Serve) -> None:
    times: list[float] = []

    def script(call: Call) -> Reply | str:
        times.append(time.monotonic())
        return Reply(status=429, headers={"Retry-After": "1"}) if call.number == 0 else "hi"

    assert ask(engine_of(serve(script))) == "hi"
    assert times[1] - times[0] >= 1.0


def test_a_retry_after_may_be_a_date(serve: Serve, no_waiting: list[float]) -> None:
    date = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    busy = Reply(status=503, headers={"Retry-After": date})
    assert ask(engine_of(serve(lambda call: busy if call.number == 0 else "hi"))) == "hi"
    assert 95 < no_waiting[0] < 101


def test_waits_double_up_to_a_bound(serve: Serve, no_waiting: list[float]) -> None:
    with pytest.raises(LMError):
        ask(engine_of(serve(lambda call: Reply(status=500))))
    assert [round(wait, 9) for wait in no_waiting] == [
        pytest.approx(wait, rel=0.25) for wait in (1, 2, 4, 8, 16, 30, 30)
    ]


def test_a_429_is_not_counted_among_the_attempts(serve: Serve, no_waiting: list[float]) -> None:
    server = serve(lambda call: Reply(status=429) if call.number < 15 else "hi")
    assert ask(engine_of(server)) == "hi"
    assert len(server.calls) == 16


def test_a_429_is_waited_for_no_longer_than_a_quarter_of_an_hour(
    serve: Serve, no_waiting: list[float]
) -> None:
    server = serve(lambda call: Reply("slow down", status=429))
    with pytest.raises(RateLimitError, match="answered HTTP 429: slow down"):
        ask(engine_of(server))
    assert sum(no_waiting[:-1]) < sum(no_waiting) <= 900
    assert max(no_waiting) > 44


def test_a_hang_ends_by_the_timeout(serve: Serve, no_waiting: list[float]) -> None:
    server = serve(lambda call: Reply(hang=True) if call.number == 0 else "hi")
    assert ask(engine_of(server, timeout=0.2)) == "hi"


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply("bad key: key", status=401), "the key was refused .* set OPENAI_API_KEY"),
        (Reply("no tiny here", status=404), "has no model 'tiny'"),
        (Reply("pay", status=402), "asks for payment"),
        (
            Reply(status=429, raw=b'{"error": {"code": "insufficient_quota", "message": "pay"}}'),
            "asks for payment",
        ),
    ],
)
def test_what_no_retry_mends_is_fatal(serve: Serve, reply: Reply, message: str) -> None:
    server = serve(lambda call: reply)
    with pytest.raises(LMError, match=message) as caught:
        ask(engine_of(server))
    assert caught.value.fatal
    assert len(server.calls) == 1


def test_a_server_that_is_not_there_fails_at_once() -> None:
    engine = Engine("http://127.0.0.1:9/v1", "key", timeout=5, max_in_flight=1)
    with pytest.raises(LMError, match=r"no answer from http://127.0.0.1:9/v1") as caught:
        asyncio.run(engine.acomplete(request()))
    assert caught.value.fatal


def test_a_server_that_answered_once_is_waited_for(serve: Serve, no_waiting: list[float]) -> None:
    server = serve(lambda call: "hi")
    engine = engine_of(server)
    assert ask(engine) == "hi"
    server.__exit__()
    with pytest.raises(LMError):
        ask(engine)
    assert len(no_waiting) == irr.lm.ATTEMPTS - 1


def test_a_prompt_that_is_too_long_has_its_own_error(serve: Serve) -> None:
    said = "This model's maximum context length is 100 tokens. However, you requested 200."
    server = serve(lambda call: Reply(said, status=400))
    with pytest.raises(ContextTooLongError):
        ask(engine_of(server), schema=True)
    assert len(server.calls) == 1


def test_a_server_without_schemas_is_asked_without(serve: Serve) -> None:
    def script(call: Call) -> Reply | str:
        return Reply("unknown field", status=400) if "response_format" in call.body else "hi"

    server = serve(script)
    engine = engine_of(server)
    assert [ask(engine, schema=True) for _ in range(3)] == ["hi"] * 3
    assert ["response_format" in call.body for call in server.calls] == [True, False, False, False]


def test_a_400_about_something_else_does_not_turn_schemas_off(serve: Serve) -> None:
    server = serve(lambda call: Reply("bad text", status=400) if call.number < 2 else "hi")
    engine = engine_of(server)
    with pytest.raises(LMError, match="refused the request"):
        ask(engine, schema=True)
    assert ask(engine, schema=True) == "hi"
    assert ["response_format" in call.body for call in server.calls] == [True, False, True]


def test_a_reply_that_was_cut_off_is_not_used(serve: Serve) -> None:
    server = serve(lambda call: Reply('["a', finish_reason="length"))
    with count_usage() as count, pytest.raises(ReplyError, match="cut off at 9 tokens"):
        ask(engine_of(server))
    assert count.total.calls == 1


def test_no_more_in_flight_than_allowed(serve: Serve) -> None:
    server = serve(lambda call: Reply("hi", delay=0.05))
    engine = engine_of(server, most=3)

    async def many() -> None:
        await asyncio.gather(*(engine.acomplete(request()) for _ in range(12)))

    asyncio.run(many())
    assert len(server.calls) == 12
    assert server.most_in_flight == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (LMSettings("gpt-x"), "unknown LM 'gpt-x'"),
        (LMSettings("openai/gpt-x"), "set OPENAI_API_KEY"),
        (LMSettings("openai/", "http://x"), "names no model"),
        (LMSettings("m", "localhost:8000"), "is no address"),
        (LMSettings("m", "http://h/v1,"), "is no address"),
        (LMSettings("vllm/m"), "vllm serve m"),
    ],
)
def test_names_that_fit_no_lm(settings: LMSettings, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        open_lm(settings)


def test_the_key_is_in_no_message(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(lambda call: Reply(f"you sent {call.headers['authorization']}", status=400))
    engine = Engine(server.url, "sk-canary", timeout=5, max_in_flight=1)
    with pytest.raises(LMError) as caught:
        asyncio.run(engine.acomplete(request()))
    assert "canary" not in str(caught.value)
    assert "canary" not in repr(engine)


def test_after_a_fatal_error_nothing_is_sent(serve: Serve) -> None:
    server = serve(lambda call: Reply("no", status=401, delay=0.05))
    engine = engine_of(server, most=2)

    async def many() -> list[object]:
        calls = [engine.acomplete(request()) for _ in range(20)]
        first = await asyncio.gather(*calls, return_exceptions=True)
        return [*first, *await asyncio.gather(engine.acomplete(request()), return_exceptions=True)]

    results = asyncio.run(many())
    assert all(isinstance(error, LMError) and error.fatal for error in results)
    assert len(server.calls) == 2


def test_what_waits_for_another_attempt_ends_with_a_fatal_error(serve: Serve) -> None:
    def script(call: Call) -> Reply:
        busy = Reply(status=503, headers={"Retry-After": "500"})
        return busy if call.number == 0 else Reply("no", status=401)

    engine = engine_of(serve(script))

    async def two() -> list[object]:
        first = asyncio.create_task(engine.acomplete(request()))
        while not engine._pauses:
            await asyncio.sleep(0.01)
        calls = asyncio.gather(first, engine.acomplete(request()), return_exceptions=True)
        return await asyncio.wait_for(calls, 10)

    assert ["the key was refused" in str(error) for error in asyncio.run(two())] == [True, True]


def test_a_run_that_was_stopped_and_closed_may_begin_again(serve: Serve) -> None:
    server = serve(lambda call: Reply("no", status=401) if call.number == 0 else "hi")
    engine = engine_of(server)

    async def again() -> str | None:
        with pytest.raises(LMError, match="key was refused"):
            await engine.acomplete(request())
        await engine.aclose()
        return (await engine.acomplete(request())).message.text

    assert asyncio.run(again()) == "hi"


def test_calls_that_all_fail_end_the_run_without_a_ledger_too(
    serve: Serve, no_waiting: list[float]
) -> None:
    server = serve(lambda call: Reply(status=503))
    engine = engine_of(server)

    async def one_by_one() -> list[bool]:
        fatal = []
        for _ in range(10):
            with pytest.raises(LMError) as caught:
                await engine.acomplete(request())
            fatal.append(caught.value.fatal)
        return fatal

    assert asyncio.run(one_by_one()) == [False] * 7 + [True] * 3
    assert len(server.calls) == 8 * irr.lm.ATTEMPTS


def test_older_documents_go_first(serve: Serve) -> None:
    server = serve(lambda call: Reply("hi", delay=0.02))
    engine = engine_of(server, most=1)

    async def document(number: int) -> None:
        order.set(number)
        body = {"model": "tiny", "messages": [{"role": "user", "content": str(number)}]}
        await engine.ask(body)

    async def many() -> None:
        await asyncio.gather(*(document(number) for number in (5, 3, 1, 4, 2)))

    asyncio.run(many())
    assert [call.user for call in server.calls] == ["5", "1", "2", "3", "4"]


def test_requests_are_shared_out_among_addresses(serve: Serve) -> None:
    servers = [serve(lambda call: Reply("hi", delay=0.05)) for _ in range(3)]
    engine = Engine(",".join(s.url for s in servers), "key", timeout=5, max_in_flight=9)

    async def many() -> None:
        await asyncio.gather(*(engine.acomplete(request()) for _ in range(9)))

    asyncio.run(many())
    assert [len(server.calls) for server in servers] == [3, 3, 3]


def test_an_address_that_is_dead_is_left_out(serve: Serve, no_waiting: list[float]) -> None:
    alive, dead = serve(lambda call: "hi"), serve(lambda call: "hi")
    dead.__exit__()
    engine = Engine(f"{dead.url}, {alive.url}/", "key", timeout=5, max_in_flight=4)

    async def many() -> list[str | None]:
        return [(await engine.acomplete(request())).message.text for _ in range(6)]

    assert asyncio.run(many()) == ["hi"] * 6
    assert len(alive.calls) == 6
    assert no_waiting == []


def test_where_every_address_is_dead_it_fails_at_once(serve: Serve) -> None:
    servers = [serve(lambda call: "hi") for _ in range(2)]
    for server in servers:
        server.__exit__()
    engine = Engine(",".join(s.url for s in servers), "key", timeout=5, max_in_flight=1)
    with pytest.raises(LMError, match="no answer from") as caught:
        ask(engine)
    assert caught.value.fatal


def test_the_proxy_of_the_environment_is_used(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serve(lambda call: "by proxy")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    engine = Engine("http://lm.invalid/v1", "key", timeout=5, max_in_flight=1)
    assert ask(engine) == "by proxy"
    assert proxy.calls[0].path == "http://lm.invalid/v1/chat/completions"


@pytest.mark.parametrize("usage", ["-1", '"many"', "[1]", "1.5", "null", '{"prompt_tokens": -3}'])
def test_odd_token_counts_do_not_cost_a_good_reply(serve: Serve, usage: str) -> None:
    choice = '{"index": 0, "message": {"role": "assistant", "content": "hi"}}'
    counted = f'{{"prompt_tokens": {usage}}}' if usage != "null" else usage
    body = f'{{"id": "x", "choices": [{choice}], "usage": {counted}}}'
    server = serve(lambda call: Reply(raw=body.encode()))
    assert ask(engine_of(server)) == "hi"
    assert len(server.calls) == 1


def test_half_a_surrogate_pair_in_a_reply_is_replaced(serve: Serve) -> None:
    body = b'{"choices": [{"message": {"content": "a\\ud800b"}}]}'
    assert ask(engine_of(serve(lambda call: Reply(raw=body)))) == "a?b"


def test_half_a_surrogate_pair_in_a_text_is_refused(serve: Serve) -> None:
    server = serve(lambda call: "hi")
    body = {"model": "tiny", "messages": [{"role": "user", "content": "\ud800"}]}
    with pytest.raises(LMError, match="surrogate pair must be repaired"):
        asyncio.run(engine_of(server).ask(body))
    assert server.calls == []


def test_reasoning_beside_the_answer_is_left_out(serve: Serve) -> None:
    message = '{"content": "hi", "reasoning_content": "hm", "reasoning": "hm", "refusal": null}'
    body = f'{{"choices": [{{"message": {message}}}]}}'
    assert ask(engine_of(serve(lambda call: Reply(raw=body.encode())))) == "hi"


def test_a_deeply_nested_body_is_tried_again(serve: Serve, no_waiting: list[float]) -> None:
    server = serve(lambda call: Reply(raw=b"[" * 50_000) if call.number == 0 else "hi")
    assert ask(engine_of(server)) == "hi"


@pytest.mark.parametrize(
    ("message", "reason", "said"),
    [
        ('{"role": "assistant", "refusal": "I will not."}', "stop", "refused: 'I will not.'"),
        ('{"role": "assistant", "content": "half"}', "content_filter", "content filter"),
    ],
)
def test_what_is_no_answer_says_why(serve: Serve, message: str, reason: str, said: str) -> None:
    choice = f'{{"index": 0, "message": {message}, "finish_reason": "{reason}"}}'
    server = serve(lambda call: Reply(raw=f'{{"id": "x", "choices": [{choice}]}}'.encode()))
    with pytest.raises(ReplyError, match=said):
        ask(engine_of(server))


def test_a_redirect_says_where_to(serve: Serve) -> None:
    server = serve(lambda call: Reply("[1]", status=307, headers={"Location": "http://x/v1"}))
    with pytest.raises(LMError, match="moved to http://x/v1: give that as --api-base"):
        ask(engine_of(server))


def test_a_403_after_good_answers_is_about_one_document(serve: Serve) -> None:
    server = serve(lambda call: "hi" if call.number == 0 else Reply("blocked", status=403))
    engine = engine_of(server)
    assert ask(engine) == "hi"
    fatal = []
    for _ in range(5):
        with pytest.raises(LMError) as caught:
            ask(engine)
        fatal.append(caught.value.fatal)
    assert fatal == [False] * 4 + [True]


def test_retry_after_zero_still_waits_and_a_day_is_not_waited(
    serve: Serve, no_waiting: list[float]
) -> None:
    def script(call: Call) -> Reply | str:
        return Reply(status=429, headers={"Retry-After": "0"}) if call.number < 2 else "hi"

    assert ask(engine_of(serve(script))) == "hi"
    assert no_waiting[0] >= 0.7
    day = serve(lambda call: Reply(status=429, headers={"Retry-After": "86400"}))
    with pytest.raises(LMError, match="asks to wait 86,400 s") as caught:
        ask(engine_of(day))
    assert caught.value.fatal
    assert len(day.calls) == 1


@pytest.mark.parametrize("key", ["sk-SECRET\nabc", "sk-SECRÉT", "sk SECRET"])
def test_a_key_that_cannot_be_sent_is_refused_without_being_shown(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY holds a character") as caught:
        open_lm(LMSettings("m", "http://127.0.0.1:9/v1"))
    assert "SECR" not in str(caught.value)


def test_a_key_near_the_end_of_a_message_is_not_half_shown(serve: Serve) -> None:
    server = serve(lambda call: Reply("x" * 290 + call.headers["authorization"], status=400))
    engine = Engine(server.url, "sk-canary" * 9, timeout=5, max_in_flight=1)
    with pytest.raises(LMError) as caught:
        ask(engine)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "base", ["http://", "http://h:0/v1", "http://h:x/v1", "http://a b/v1", "ftp://h/v1"]
)
def test_addresses_that_are_none(base: str) -> None:
    with pytest.raises(ConfigurationError, match="is no address"):
        open_lm(LMSettings("m", base))


def test_a_password_in_the_address_is_refused_without_being_shown() -> None:
    with pytest.raises(ConfigurationError, match="leave them out") as caught:
        open_lm(LMSettings("m", "http://user:PASSW0RD@h/v1"))
    assert "PASSW0RD" not in str(caught.value)


def test_a_reply_limit_that_the_server_refuses_is_lowered_once(serve: Serve) -> None:
    def script(call: Call) -> Reply | str:
        if call.body["max_tokens"] > 8:
            said = "max_tokens=9 cannot be greater than max_model_len=8. Please"
            return Reply(said, status=400)
        return "hi"

    server = serve(script)
    engine = engine_of(server)
    assert [ask(engine, schema=True), ask(engine, schema=True)] == ["hi", "hi"]
    assert [call.body["max_tokens"] for call in server.calls] == [9, 4, 4]
    assert all("response_format" in call.body for call in server.calls)


def test_a_reply_clamped_by_the_context_means_the_prompt_is_too_long(serve: Serve) -> None:
    server = serve(lambda call: Reply("x", finish_reason="length", tokens=2))
    with pytest.raises(ContextTooLongError, match="leaves 2 tokens"):
        ask(engine_of(server))
