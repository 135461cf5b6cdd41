"""Infer and Rank over a scripted server: what they ask, what they make of the answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_server import Call, Reply, ScriptedServer

from irr.errors import LMError
from irr.infer import MOST_CHUNKS, Infer
from irr.lm import LMSettings, open_lm
from irr.prompts import read_prompts
from irr.rank import Rank, fuse, show_candidate
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


def test_rank_takes_names_for_numbers(serve: Serve) -> None:
    assert rank(serve(lambda call: '["name 2", "Name 1"]'), 3).order == [1, 0, 2]


@pytest.mark.parametrize("reply", ["", "I like them all, really.", ranking(7, 8), '{"ranking": [1'])
def test_rank_falls_back_to_retrieval_and_says_so(serve: Serve, reply: str) -> None:
    server = serve(lambda call: reply)
    result = rank(server, 3)
    assert (result.order, result.picked) == ([0, 1, 2], 0)
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
    steps = stage._steps("text", candidates)
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
    assert show_candidate(Label("1", "two\nlines\tand tabs")) == "two lines and tabs"
    assert show_candidate(Label("1", "SQL", description="A query\nlanguage.")) == (
        "SQL (A query language.)"
    )
    shown = show_candidate(Label("1", "SQL", description="word " * 100))
    assert shown.endswith("word…)")
    assert len(shown) < 180


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
