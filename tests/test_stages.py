"""Infer and Rank over a scripted server: what they ask, what they make of the answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_server import Call, Reply, ScriptedServer

from irr.errors import LMError
from irr.infer import MOST_CHUNKS, Infer
from irr.lm import Engine, LMSettings, open_lm
from irr.prompts import read_prompts
from irr.rank import Rank, fuse, show_candidates
from irr.types import Label

Serve = Callable[..., ScriptedServer]
PROMPTS = read_prompts()
TOO_LONG = Reply("This model's maximum context length is 99 tokens", status=400)


def infer(server: ScriptedServer, text: str, **options: int) -> dspy.Prediction:
    stage = Infer(PROMPTS, **options)
    stage.predict.lm = open_lm(LMSettings("tiny", server.url, timeout=5))
    return asyncio.run(stage.acall(text=text))


def rank(server: ScriptedServer, count: int, text: str = "text", **options: int) -> dspy.Prediction:
    stage = Rank(PROMPTS, **options)
    stage.predict.lm = open_lm(LMSettings("tiny", server.url, timeout=5))
    candidates = [Label(f"id-{number}", f"name {number}") for number in range(1, count + 1)]
    return asyncio.run(stage.acall(text=text, candidates=candidates))


def ranking(*numbers: int) -> str:
    return json.dumps({"ranking": numbers})


def test_infer_gives_guesses(serve: Serve) -> None:
    server = serve(lambda call: '{"guesses": ["SQL", "use databases"]}')
    assert infer(server, "We use SQL.").guesses == ["SQL", "use databases"]
    (call,) = server.calls
    assert call.stage == "infer"
    assert call.text == "We use SQL."
    assert call.body["temperature"] == 0.0
    assert call.body["response_format"]["json_schema"]["name"] == "guesses"


def test_both_ways_of_calling_give_the_same(serve: Serve) -> None:
    server = serve(lambda call: '["SQL"]')
    stage = Infer(PROMPTS)
    stage.predict.lm = open_lm(LMSettings("tiny", server.url, timeout=5))
    assert stage(text="x").guesses == asyncio.run(stage.acall(text="x")).guesses == ["SQL"]


def test_a_long_text_is_inferred_by_chunk_and_pooled(serve: Serve) -> None:
    server = serve(lambda call: json.dumps([call.text.split()[0], "shared"]))
    text = "\n\n".join(f"{word} " + "x" * 60 for word in ("alpha", "beta", "gamma"))
    reply = infer(server, text, chunk_chars=80)
    assert reply.guesses == ["alpha", "shared", "beta", "gamma"]
    assert sorted(call.text for call in server.calls) == sorted(text.split("\n\n"))


def test_a_book_is_read_up_to_a_bound_and_says_so(serve: Serve) -> None:
    server = serve(lambda call: "[]")
    reply = infer(server, "word " * 200, chunk_chars=10)
    assert len(server.calls) == MOST_CHUNKS
    assert reply.notes == ["Infer read the first 500 of 1,000 characters"]


def test_an_unusable_reply_is_asked_again_differently(serve: Serve) -> None:
    server = serve(lambda call: "what?" * 99 if call.number == 0 else '["SQL"]')
    reply = infer(server, "x")
    assert reply.guesses == ["SQL"]
    assert reply.notes == []
    first, second = server.calls
    assert "could not be read" in second.messages[0]["content"]
    assert "could not be read" not in first.messages[0]["content"]
    assert (first.body["temperature"], second.body["temperature"]) == (0.0, 0.7)
    assert second.body["max_tokens"] == first.body["max_tokens"]


def test_a_reply_that_was_cut_off_gets_more_room(serve: Serve) -> None:
    cut = Reply("[", finish_reason="length")
    server = serve(lambda call: cut if call.number == 0 else '["SQL"]')
    assert infer(server, "x").guesses == ["SQL"]
    first, second = server.calls
    assert second.body["max_tokens"] == 4 * first.body["max_tokens"]


@pytest.mark.parametrize(
    "reply", ["", "prose " * 50, '["a", "b', Reply("[", finish_reason="length")]
)
def test_infer_goes_on_without_guesses_and_says_so(serve: Serve, reply: Reply | str) -> None:
    server = serve(lambda call: reply)
    result = infer(server, "x")
    assert result.guesses == []
    assert len(result.notes) == 1
    assert result.notes[0].startswith("Infer gave no guesses: ")
    assert len(server.calls) == 3


def test_infer_halves_a_chunk_that_is_too_long(serve: Serve) -> None:
    server = serve(lambda call: TOO_LONG if len(call.text) > 800 else json.dumps([call.text[:3]]))
    reply = infer(server, "one " * 200 + "two " * 200)
    assert set(reply.guesses) == {"one", "two"}
    assert reply.notes == [
        "Infer read the text in smaller chunks: the prompt was too long for the LM"
    ]


def test_infer_gives_up_where_even_a_short_text_is_too_long(serve: Serve) -> None:
    with pytest.raises(LMError, match="too long"):
        infer(serve(lambda call: TOO_LONG), "x" * 2000)


def test_rank_puts_the_picks_first(serve: Serve) -> None:
    server = serve(lambda call: ranking(3, 1))
    reply = rank(server, 5)
    assert (reply.order, reply.picked, reply.notes) == ([2, 0, 1, 3, 4], 2, [])
    (call,) = server.calls
    assert call.candidates == ["name 1", "name 2", "name 3", "name 4", "name 5"]


def test_rank_may_pick_none(serve: Serve) -> None:
    server = serve(lambda call: ranking())
    reply = rank(server, 3)
    assert (reply.order, reply.picked, reply.notes) == ([0, 1, 2], 0, [])
    assert len(server.calls) == 1


def test_0_is_an_answer_and_no_candidate(serve: Serve) -> None:
    server = serve(lambda call: ranking(0))
    reply = rank(server, 3)
    assert (reply.order, reply.picked, reply.notes) == ([0, 1, 2], 0, [])
    (call,) = server.calls
    assert call.user.endswith("3. name 3\n0. none of these")


def test_what_comes_after_0_does_not_count(serve: Serve) -> None:
    reply = rank(serve(lambda call: ranking(3, 0, 1)), 3)
    assert (reply.order, reply.picked) == ([2, 0, 1], 1)


def test_rank_takes_names_for_numbers(serve: Serve) -> None:
    assert rank(serve(lambda call: '["name 2", "Name 1"]'), 3).order == [1, 0, 2]


@pytest.mark.parametrize("reply", ["", "I like them all, really.", ranking(7, 8), '{"ranking": [1'])
def test_rank_falls_back_to_retrieval_and_says_so(serve: Serve, reply: str) -> None:
    server = serve(lambda call: reply)
    result = rank(server, 3)
    assert (result.order, result.picked) == ([0, 1, 2], None)
    assert result.notes[0].startswith("Rank kept the order of retrieval: ")
    assert len(server.calls) == 3


def test_rank_without_candidates_asks_nothing(serve: Serve) -> None:
    server = serve(lambda call: ranking(1))
    assert rank(server, 0).order == []
    assert server.calls == []


def test_windows_then_their_picks_together(serve: Serve) -> None:
    def script(call: Call) -> str:
        names = call.candidates
        if len(names) == 10:  # a window: its third and its first candidate
            return ranking(3, 1)
        return ranking(*range(len(names), 0, -1))  # the picks together: backwards

    server = serve(script)
    reply = rank(server, 30, window=10)
    assert [len(call.candidates) for call in server.calls] == [10, 10, 10, 6]
    assert server.calls[-1].candidates == [f"name {n}" for n in (1, 3, 11, 13, 21, 23)]
    assert reply.order[:6] == [22, 20, 12, 10, 2, 0]
    assert reply.order[6:] == [n for n in range(30) if n not in (0, 2, 10, 12, 20, 22)]
    assert reply.picked == 6


def test_a_window_may_answer_none(serve: Serve) -> None:
    def script(call: Call) -> str:
        return ranking(2, 1) if "name 11" in call.candidates else ranking(0)

    reply = rank(serve(script), 30, window=10)
    assert reply.order == [11, 10, *range(10), *range(12, 30)]
    assert (reply.picked, reply.notes) == (2, [])


def test_the_last_round_may_answer_none(serve: Serve) -> None:
    server = serve(lambda call: ranking(3) if len(call.candidates) == 10 else ranking(0))
    reply = rank(server, 30, window=10)
    assert len(server.calls) == 4
    assert (reply.order, reply.picked, reply.notes) == (list(range(30)), 0, [])


def test_what_only_a_window_picked_comes_behind_the_picks(serve: Serve) -> None:
    server = serve(lambda call: ranking(3) if len(call.candidates) == 10 else ranking(2))
    reply = rank(server, 30, window=10)
    assert reply.order[:4] == [12, 2, 22, 0]
    assert reply.picked == 1


def test_picks_of_windows_stand_where_the_last_reply_cannot_be_read(serve: Serve) -> None:
    server = serve(lambda call: ranking(3) if len(call.candidates) == 10 else "what?" * 99)
    reply = rank(server, 30, window=10)
    assert (reply.order[:3], reply.picked, len(reply.notes)) == ([2, 12, 22], 3, 1)


def unread_from(name: str, *good: int, last: str = "[1]") -> Callable[[Call], str]:
    """Prose about the window with `name`, `last` where fewer than 10 are shown, else `good`."""

    def script(call: Call) -> str:
        if name in call.candidates and len(call.candidates) == 10:
            return "I cannot say."
        return ranking(*good) if len(call.candidates) == 10 else last

    return script


def test_a_window_that_cannot_be_read_is_unread(serve: Serve) -> None:
    reply = rank(serve(unread_from("name 11", 2)), 30, window=10)
    assert reply.order == [1, 21, 0, *range(2, 21), *range(22, 30)]
    assert (reply.picked, reply.unread) == (1, frozenset(range(10, 20)))
    assert reply.notes == [
        "Rank's replies about 10 of 30 candidates could not be read: "
        "no numbers in the LM's reply: 'I cannot say.'"
    ]


def test_what_no_window_picked_is_not_what_could_not_be_read(serve: Serve) -> None:
    reply = rank(serve(unread_from("name 11", 0)), 20, window=10)
    assert (reply.order, reply.picked) == (list(range(20)), 0)
    assert reply.unread == frozenset(range(10, 20))


def test_what_is_picked_is_not_unread(serve: Serve) -> None:
    reply = rank(serve(unread_from("name 11", 2, 3, last="?")), 30, window=10)
    assert reply.picked == 4
    assert reply.unread == frozenset(range(10, 20))
    assert reply.notes[1].startswith("Rank kept the picks of its windows: ")


def test_all_is_unread_where_no_reply_could_be_read(serve: Serve) -> None:
    reply = rank(serve(lambda call: "I cannot say."), 20, window=10)
    assert (reply.picked, reply.unread) == (None, frozenset(range(20)))
    (note,) = reply.notes
    assert note.startswith("Rank kept the order of retrieval: ")


def test_a_later_round_that_cannot_be_read_in_part(serve: Serve) -> None:
    def script(call: Call) -> str:
        shown = call.candidates
        if len(shown) == 8:  # The second round: of all 16 picks.
            return ranking(1) if "name 1" in shown else "I cannot say."
        return ranking(1, 2, 3, 4) if len(shown) == 10 else ranking(*range(1, len(shown) + 1))

    reply = rank(serve(script), 40, window=10)
    assert (reply.order[0], reply.picked) == (0, 1)
    assert reply.unread == {20, 21, 22, 23, 30, 31, 32, 33}


def test_an_answer_of_null_is_asked_again(serve: Serve) -> None:
    server = serve(lambda call: '{"ranking": [null]}' if call.number == 0 else ranking(2))
    assert rank(server, 3).picked == 1
    assert len(server.calls) == 2


@pytest.mark.parametrize(
    "reply", ['{"ranking": ["none"]}', "None of the candidates apply.", "1. none of these"]
)
def test_none_in_words_is_an_answer(serve: Serve, reply: str) -> None:
    server = serve(lambda call: reply)
    result = rank(server, 3)
    assert (result.picked, result.notes, len(server.calls)) == (0, [], 1)


def picking(names: set[str], extra: int = 0) -> Callable[[Call], str]:
    """Picks these names where they are shown, best first, and before them the first `extra`."""

    def script(call: Call) -> str:
        gold = [number for number, name in enumerate(call.candidates, 1) if name in names]
        return ranking(*(gold if len(call.candidates) < 100 else [*range(1, extra + 1), *gold]), 0)

    return script


def test_a_label_far_down_the_list_can_win(serve: Serve) -> None:
    server = serve(picking({"name 437"}, extra=10))
    reply = rank(server, 500, window=100)
    assert (reply.order[0], reply.picked) == (436, 1)
    assert sorted(reply.order) == list(range(500))
    assert [len(call.candidates) for call in server.calls] == [100] * 5 + [51]


def test_rounds_repeat_until_the_picks_fit_a_window(serve: Serve) -> None:
    def script(call: Call) -> str:  # 40 of each hundred, and so on
        return ranking(*range(1, len(call.candidates) * 2 // 5 + 1))

    server = serve(script)
    reply = rank(server, 500, window=100)
    assert [len(call.candidates) for call in server.calls] == [100] * 5 + [100] * 2 + [80]
    assert reply.picked == 32


def test_rounds_end_where_the_lm_picks_nearly_everything(serve: Serve) -> None:
    server = serve(lambda call: ranking(*range(2, len(call.candidates) + 1)))
    reply = rank(server, 500, window=100)
    # 500 candidates, then 250, 125 and 100 of them.
    assert [len(call.candidates) for call in server.calls][5:] == [84, 84, 82, 63, 62, 100]
    assert reply.picked == 99


def test_windows_share_their_prefix_up_to_the_candidates(serve: Serve) -> None:
    server = serve(picking({"name 437"}))
    rank(server, 500, text="A long text. " * 50, window=100)
    windows = server.calls[:5]
    prefixes = {json.dumps(call.messages).partition("1. name")[0] for call in windows}
    assert len(prefixes) == 1
    assert "A long text." in prefixes.pop()


def test_windows_are_asked_at_the_same_time(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(lambda call: ranking(0))
    ask = Engine.ask
    together = asyncio.Barrier(5)

    async def all_five(engine: Engine, body: Any) -> Any:
        await asyncio.wait_for(together.wait(), 20)  # Passes when five requests wait here.
        return await ask(engine, body)

    monkeypatch.setattr(Engine, "ask", all_five)
    assert rank(server, 500, window=100).picked == 0
    assert len(server.calls) == 5


DESCRIBED = [Label(str(n), f"name {n}", description="It is. " + "word " * 28) for n in range(100)]


def rank_described(server: ScriptedServer, text: str = "text") -> dspy.Prediction:
    stage = Rank(PROMPTS)
    stage.predict.lm = open_lm(LMSettings("tiny", server.url, timeout=5))
    return asyncio.run(stage.acall(text=text, candidates=DESCRIBED))


def too_long_above(characters: int) -> Callable[[Call], Reply | str]:
    return lambda call: TOO_LONG if len(call.user) > characters else ranking(2)


def test_descriptions_shrink_before_the_windows(serve: Serve) -> None:
    server = serve(too_long_above(8_000))
    reply = rank_described(server)
    assert [len(call.candidates) for call in server.calls] == [100, 100]
    assert server.calls[1].candidates[0] == "name 0 (It is. word word…)"
    assert reply.notes == ["Rank saw shorter descriptions: the prompt was too long"]
    assert reply.order[0] == 1


def test_descriptions_are_left_out_before_the_windows_shrink(serve: Serve) -> None:
    server = serve(too_long_above(2_000))
    reply = rank_described(server)
    assert server.calls[-1].candidates == [f"name {n}" for n in range(100)]
    assert reply.notes == [
        "Rank saw shorter descriptions: the prompt was too long",
        "Rank saw no descriptions: the prompt was too long",
    ]


def test_then_windows_shrink_and_then_the_text(serve: Serve) -> None:
    server = serve(too_long_above(700))
    reply = rank_described(server, "word " * 200)
    assert [note.partition(":")[0] for note in reply.notes] == [
        "Rank saw shorter descriptions",
        "Rank saw no descriptions",
        "Rank saw the candidates in smaller windows",
        "Rank saw the start of the text",
    ]


@pytest.mark.parametrize("length", [0, 30, 900])
@pytest.mark.parametrize("count", [1, 5, 30, 100])
def test_no_request_that_was_too_long_is_sent_again(serve: Serve, count: int, length: int) -> None:
    server = serve(lambda call: TOO_LONG)
    labels = [Label(str(n), f"name {n}", description="x" * length) for n in range(count)]
    stage = Rank(PROMPTS)
    stage.predict.lm = open_lm(LMSettings("tiny", server.url, timeout=5))
    with pytest.raises(LMError, match="too long"):
        asyncio.run(stage.acall(text="word " * 300, candidates=labels))
    sent = [call.user for call in server.calls]
    assert len(sent) == len(set(sent))


def test_windows_shrink_when_the_prompt_is_too_long(serve: Serve) -> None:
    server = serve(lambda call: TOO_LONG if len(call.candidates) > 25 else ranking(1))
    reply = rank(server, 100)
    assert reply.order[:4] == [0, 25, 50, 75]
    assert reply.notes == ["Rank saw the candidates in smaller windows: the prompt was too long"]


def test_the_text_shrinks_when_the_windows_cannot(serve: Serve) -> None:
    server = serve(lambda call: TOO_LONG if len(call.text) > 1000 else ranking(2))
    reply = rank(server, 5, text="word " * 600, window=10)
    assert reply.order == [1, 0, 2, 3, 4]
    assert reply.notes == ["Rank saw the start of the text: the prompt was too long"]


@given(st.data())
def test_rank_returns_a_permutation_whatever_the_lm_says(data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 25))
    window = data.draw(st.integers(1, 12))
    stage = Rank(PROMPTS, window=window)
    candidates = [Label(str(number), f"name {number}") for number in range(count)]
    steps = stage._questions("text", candidates).steps()
    picks = st.lists(st.integers(-3, 30) | st.text(max_size=8), max_size=15)
    try:
        questions = next(steps)
        while True:
            questions = steps.send([data.draw(picks) for _ in questions])
    except StopIteration as stop:
        reply = stop.value
    assert sorted(reply.order) == list(range(count))
    assert 0 <= reply.picked <= count


@given(st.permutations(list(range(12))), st.floats(0, 5))
def test_fusion_is_a_permutation(order: list[int], weight: float) -> None:
    assert sorted(fuse(order, weight)) == list(range(12))


def test_fusion_by_hand() -> None:
    # Places of 0, 1, 2 with Rank: 3, 1, 2; offset 3: 1/6 + w/4, 1/4 + w/5, 1/5 + w/6.
    assert fuse([1, 2, 0], 0.0) == [1, 2, 0]
    assert fuse([1, 2, 0], 0.5) == [1, 0, 2]  # .292, .35, .283
    assert fuse([1, 2, 0], 1.0) == [1, 0, 2]
    assert fuse([1, 2, 0], 10.0) == [0, 1, 2]


def test_candidates_are_shown_on_one_line_each() -> None:
    labels = [Label("1", "two\nlines\tand tabs"), Label("2", "SQL", description="A\nlanguage.")]
    assert show_candidates(labels) == ["two lines and tabs", "SQL (A language.)"]


def test_short_descriptions_leave_their_room_to_long_ones() -> None:
    labels = [Label("1", "a", description="x" * 10), Label("2", "b", description="y" * 300)]
    # 100 characters: 10, and 90 that are left; limits are multiples of 20.
    assert show_candidates(labels, 100) == [f"a ({'x' * 10})", f"b ({'y' * 80}…)"]


def test_descriptions_within_the_budget_are_whole() -> None:
    labels = [Label(str(n), "a", description="x" * 160) for n in range(100)]
    assert set(show_candidates(labels)) == {f"a ({'x' * 160})"}


def test_one_description_is_not_a_page() -> None:
    (line,) = show_candidates([Label("1", "a", description="word " * 200)])
    assert line == f"a ({'word ' * 79}word…)"


def test_without_room_there_are_names_alone() -> None:
    labels = [Label(str(n), "a", description="x" * 50) for n in range(10)]
    assert show_candidates(labels, 100) == ["a"] * 10
    assert show_candidates(labels, 0) == ["a"] * 10


@given(st.lists(st.text(max_size=60) | st.just("z" * 900), max_size=30), st.integers(0, 3000))
def test_descriptions_keep_to_the_budget(descriptions: list[str], budget: int) -> None:
    labels = [Label("1", "n", description=text) for text in descriptions]
    shown = show_candidates(labels, budget)
    extra = len(" (…)")
    assert sum(max(0, len(line) - len("n") - extra) for line in shown) <= budget
    assert shown == show_candidates(labels, budget)


def test_descriptions_reach_the_prompt_and_names_are_understood(serve: Serve) -> None:
    server = serve(lambda call: '["SQL"]')
    stage = Rank(PROMPTS)
    stage.predict.lm = open_lm(LMSettings("tiny", server.url, timeout=5))
    labels = [Label("1", "COBOL"), Label("2", "SQL", description="A query language.")]
    reply = asyncio.run(stage.acall(text="x", candidates=labels))
    assert server.calls[0].candidates == ["COBOL", "SQL (A query language.)"]
    assert reply.order == [1, 0]


def test_a_connection_that_breaks_at_the_second_attempt(
    serve: Serve, no_waiting: list[float]
) -> None:
    replies = ["[1, 2]", Reply("x", cut=40), '["SQL"]']
    server = serve(lambda call: replies[min(call.number, 2)])
    assert infer(server, "x").guesses == ["SQL"]
