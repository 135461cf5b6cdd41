from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from irr.errors import ReplyError
from irr.replies import (
    MAX_GUESS_CHARS,
    MAX_GUESSES,
    excerpt,
    parse_guesses,
    parse_picks,
    resolve_picks,
)


@pytest.mark.parametrize(
    ("reply", "guesses"),
    [
        ('{"guesses": ["use databases", "SQL"]}', ["use databases", "SQL"]),
        ('["use databases", "SQL"]', ["use databases", "SQL"]),
        ('```json\n{"guesses": ["SQL"]}\n```', ["SQL"]),
        ('Sure! Here they are:\n{"guesses": ["SQL"]}\nAnything else?', ["SQL"]),
        ('<think>maybe ["wrong"]?</think>{"guesses": ["right"]}', ["right"]),
        ('{"notes": ["x"], "guesses": ["SQL"]}', ["SQL"]),
        ('{"terms": ["SQL"]}', ["SQL"]),
        ('{"guesses": [{"term": "SQL"}, {"label": "C++"}]}', ["SQL", "C++"]),
        ('{"guesses": ["SQL", " sql ", "Sql\\n"]}', ["SQL"]),
        (
            '{"guesses": ["driver\'s licence", "Paris, France"]}',
            ["driver's licence", "Paris, France"],
        ),
        ('{"guesses": [null, 3, true, "SQL"]}', ["SQL"]),
        ('{"guesses": []}', []),
        ('{"guesses": [""]}', []),
        ("none", []),
        ("- use databases\n- SQL", ["use databases", "SQL"]),
        ("Guesses:\n1. use databases\n2) SQL", ["use databases", "SQL"]),
        ("use databases, SQL; C++", ["use databases", "SQL", "C++"]),
        ("use databases, SQL.", ["use databases", "SQL"]),
        ('{"guesses": ["数据库", "été", "🩺 care"]}', ["数据库", "été", "🩺 care"]),
        ('\ufeff["SQL"]', ["SQL"]),
    ],
)
def test_guesses_are_read(reply: str, guesses: list[str]) -> None:
    assert parse_guesses(reply) == guesses


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "  \n ",
        '{"guesses": ["use databases", "SQ',
        '["use databases"',
        "I am sorry, but I cannot tell from this text which labels would apply to it.",
        "I would rather not say.",
        "Sorry, I cannot help you.",
        '{"guesses": "SQL"}',
        '{"guesses": [1, 2]}',
        "<think>it never ends",
        "```json\n```",
    ],
)
def test_guesses_that_cannot_be_read_are_an_error(reply: str) -> None:
    with pytest.raises(ReplyError):
        parse_guesses(reply)


def test_guesses_are_bounded() -> None:
    guesses = parse_guesses(json.dumps(["x" * 1000, *(f"guess {n}" for n in range(200))]))
    assert guesses[0] == "x" * MAX_GUESS_CHARS
    assert len(guesses) == MAX_GUESSES
    assert guesses[-1] == f"guess {MAX_GUESSES - 2}"


@pytest.mark.parametrize(
    ("reply", "picks"),
    [
        ('{"ranking": [3, 17]}', [3, 17]),
        ("[3, 17]", [3, 17]),
        ("3, 17", [3, 17]),
        ("3 17", [3, 17]),
        ("3, 17 and 4.", [3, 17, 4]),
        ("Ranking: 3, 17", [3, 17]),
        ("```\n[3, 17]\n```", [3, 17]),
        ("The best are [3, 17], I think.", [3, 17]),
        ('{"ranking": ["3", "17"]}', [3, 17]),
        ('{"ranking": ["3. use databases", "SQL"]}', ["3. use databases", "SQL"]),
        ('{"ranking": ["#3", "[17]", "4."]}', [3, 17, 4]),
        ('{"ranking": [{"number": 3, "label": "x"}]}', [3]),
        ('{"ranking": [3.0, 2.5, true, null]}', [3]),
        ("3. use databases\n17. SQL", ["3. use databases", "17. SQL"]),
        ("1. 17\n2. 3", [17, 3]),
        ("[3] use databases\n[17] SQL", ["[3] use databases", "[17] SQL"]),
        ("Candidate 3\nCandidate 17", [3, 17]),
        ("- use databases\n- SQL", ["use databases", "SQL"]),
        ("3", [3]),
        ('{"ranking": []}', []),
        ("None.", []),
        ("No candidates apply", []),
        ('{"reasoning": "4 and 5", "ranking": [3]}', [3]),
        ('{"ranking": [0]}', []),
        ('{"ranking": [3, 17, 0, 4]}', [3, 17]),
        ('{"ranking": [0, 3]}', []),
        ('{"ranking": ["3", "0", "17"]}', [3]),
        (
            '{"ranking": ["3. SQL", "0. none of these", "17"]}',
            ["3. SQL", "0. none of these", 17],
        ),
        ('{"ranking": [{"number": 0, "label": "none of these"}]}', []),
        ("0", []),
        ("3, 0, 17", [3]),
        ("0. none of these", ["0. none of these"]),
        ("None of these apply.", []),
        ("None of the candidates apply.", []),
        ("None of these candidates apply.", []),
        ("None of the 20 labels applies to this text.", []),
        ("None of the labels apply.", []),
        ("none of the above", []),
        ("No labels apply.", []),
        ("N/A", []),
        ('{"ranking": ["0 emission vehicles"]}', ["0 emission vehicles"]),
        ('{"ranking": ["none of these", 3]}', ["none of these", 3]),
        ('{"ranking": [[2], [1]]}', [2, 1]),
        ('{"ranking": [[["SQL"]], {"candidate": {"number": "3"}}]}', ["SQL", 3]),
        ('{"ranking": [{"rank": 1, "candidate_number": 2}]}', [2]),
        ('{"ranking": [{"rankNumber": 1, "candidateId": 2}]}', [2]),
        ('{"ranking": [{"position": 3, "confidence": 5}]}', [3]),
        ('{"ranking": [{"position": 1, "label": "SQL"}]}', ["SQL"]),
        ('{"ranking": [[4], [1, 2], [], null]}', [4]),
        ('Candidates [1] and [2] are off; {"ranking":[4]}', [4]),
        ('[1] and [2] are off; {"ranking":[4]}', [4]),
        ('I looked at [1]. {"ranking": [3, 4]}', [3, 4]),
        ('I looked at [1]. {"picks": [3, 4]}', [3, 4]),
        ('Not {"ranking": [1]} but {"ranking": [3]}, see {"notes": [2]}', [3]),
        (" ".join(f"[{n}] no." for n in range(1, 100)) + ' {"ranking": [7]}', [7]),
        ("[3]\n[5]", [3, 5]),
        ("[3], [5]", [3, 5]),
        ("Here:\n[3] use databases\n[17] SQL", ["[3] use databases", "[17] SQL"]),
        ("1234567, 3", [1234567, 3]),
    ],
)
def test_picks_are_read(reply: str, picks: list[int | str]) -> None:
    assert parse_picks(reply) == picks


@pytest.mark.parametrize(
    "reply",
    [
        "",
        '{"ranking": [3, 1',
        "[3, 1",
        "It depends on what you mean.",
        "I cannot say.",
        "No.",
        "none of these except 3",
        "None of them but the last",
        '{"ranking": 3}',
        "{}",
        '{"ranking": [null]}',
        '{"ranking": [true]}',
        '{"ranking": [3.5]}',
        '{"ranking": [""]}',
        '{"ranking": [[]]}',
        '{"ranking": [[1, 2]]}',
        '{"ranking": [{"rank": 3}]}',
        "[[]]",
        '{"picks": [3], "rejected": [4]}',
        "Candidates [1] and [2] are good.",
    ],
)
def test_picks_that_cannot_be_read_are_an_error(reply: str) -> None:
    with pytest.raises(ReplyError):
        parse_picks(reply)


@pytest.mark.parametrize(
    ("picks", "names", "positions"),
    [
        (["3. SPARQL", "1. SQL"], ["a", "SQL", "SPARQL"], [2, 1]),  # an enumeration of names
        (["3. something else"], ["a", "SQL", "SPARQL"], [2]),
        (["46, XX hermaphrodite"], ["SQL", "46, XX hermaphrodite"], [1]),
        (["2 stroke engine"], ["2 stroke engine", "SQL"], [0]),
        (["17"], ["a", "17"], [1]),
        (["two\nlines"], ["a", "two lines"], [1]),
    ],
)
def test_names_come_before_numbers(
    picks: list[int | str], names: list[str], positions: list[int]
) -> None:
    assert resolve_picks(picks, names) == positions


@pytest.mark.parametrize(
    "reply",
    [
        "1. none of these",
        "1. None",
        "- none",
        "0. none of these",
        "0, none of these apply",
        "0, because none applies",
        '{"ranking": ["none"]}',
        '{"ranking": ["None"]}',
        '{"ranking": ["N/A"]}',
        '{"ranking": ["none of these", 2]}',
        '{"ranking": ["1. None of the above"]}',
        '{"ranking": [{"number": 0, "label": "none of these"}]}',
    ],
)
def test_none_is_an_answer_and_no_candidate(reply: str) -> None:
    assert resolve_picks(parse_picks(reply), ["SQL", "COBOL"]) == []


@pytest.mark.parametrize(
    ("reply", "positions"),
    [
        ("3. COBOL\n0. None of these.\n1. SQL", [2]),
        ('{"ranking": ["COBOL", "none", "SQL"]}', [2]),
        ("1. SQL\n2. None", [0]),
        ("0. COBOL\n1. SQL", [2, 0]),
    ],
)
def test_what_comes_after_none_does_not_count(reply: str, positions: list[int]) -> None:
    assert resolve_picks(parse_picks(reply), ["SQL", "a", "COBOL"]) == positions


@pytest.mark.parametrize(
    ("reply", "positions"),
    [
        ('{"ranking": ["None of these are known", "SQL"]}', [1, 0]),
        ('{"ranking": ["2. None of these are known"]}', [1]),
        ('{"ranking": ["0 none", 1]}', [2, 0]),
        ("- none\n- SQL", [3, 0]),
        ("4. None", [3]),
        ('{"ranking": ["0. none"]}', []),  # the prompt's line, not the candidate
    ],
)
def test_a_candidate_may_be_called_none(reply: str, positions: list[int]) -> None:
    names = ["SQL", "None of these are known", "0 none", "None"]
    assert resolve_picks(parse_picks(reply), names) == positions


@pytest.mark.parametrize("picks", [[9], ["COBOL"], [-1, "3-5"], ["0 emission vehicles"]])
def test_picks_of_no_candidate_are_no_answer(picks: list[int | str]) -> None:
    assert resolve_picks(picks, ["SQL", "SPARQL"]) is None
    assert resolve_picks([], ["SQL", "SPARQL"]) == []


@pytest.mark.parametrize(
    ("pick", "positions"),
    [
        ("Cold (in: Skin) (It burns.)", [1]),  # as the prompt showed it
        ("Cold (in: Skin)", [1]),  # without its description
        ("Fever", [2]),  # without what nobody else's name needs either
        ("Cold", None),  # which one?
        ("2. Cold", [1]),  # the number says
        ("3. Cold", None),
        ("COLD  (in: nose)", [0]),
    ],
)
def test_a_name_of_several_picks_none_of_them(pick: str, positions: list[int] | None) -> None:
    names = ["Cold (in: Nose)", "Cold (in: Skin)", "Fever (in: Heat)"]
    shown = [names[0], "Cold (in: Skin) (It burns.)", "Fever (in: Heat) (It burns (a lot).)"]
    assert resolve_picks([pick], names, shown) == positions


def test_a_whole_name_comes_before_the_beginning_of_another() -> None:
    assert resolve_picks(["Java"], ["Java (programming)", "Java"]) == [1]
    shown = ["Java (programming)", "Java (An isle.)"]
    assert resolve_picks(["Java"], ["Java (programming)", "Java"], shown) == [1]


def test_names_as_shown_and_as_they_are_in_one_reply() -> None:
    names, shown = ["SQL", "COBOL"], ["SQL (A language.)", "COBOL"]
    assert resolve_picks(["COBOL", "SQL (A language.)"], names, shown) == [1, 0]


def test_a_reply_of_any_length_is_read_at_once() -> None:
    for reply in ("\n" * 10**6, "1" + " " * 10**6 + "x", "`" * 10**6, "[" * 10**6):
        with pytest.raises(ReplyError):
            parse_picks(reply)


def test_picks_become_positions_of_candidates_only() -> None:
    names = ["use databases", "SQL", "SPARQL", "sql"]
    assert resolve_picks([2, -1, 5, 10**12, "SPARQL", "Sql", "COBOL", 2, 0, 1], names) == [1, 2]


@given(st.text())
def test_no_reply_crashes_the_parsers(reply: str) -> None:
    for parse in (parse_guesses, parse_picks):
        with contextlib.suppress(ReplyError):
            parse(reply)


@given(
    st.lists(
        st.integers() | st.text(max_size=12) | st.floats() | st.booleans() | st.none(), max_size=30
    ),
    st.integers(0, 20),
)
def test_any_json_list_resolves_within_the_candidates(picks: list[object], count: int) -> None:
    names = [f"name {number}" for number in range(count)]
    try:
        found = resolve_picks(parse_picks(json.dumps({"ranking": picks})), names)
    except ReplyError:
        return
    found = found or []
    assert len(found) == len(set(found))
    assert set(found) <= set(range(count))


@given(st.lists(st.integers(1, 50), unique=True, max_size=50))
def test_good_picks_come_back_as_they_are(numbers: list[int]) -> None:
    names = [f"name {number}" for number in range(50)]
    reply = json.dumps({"ranking": numbers})
    assert resolve_picks(parse_picks(reply), names) == [number - 1 for number in numbers]


def test_an_excerpt_is_one_line() -> None:
    assert excerpt("a\nb\x1b[31m\u2028c" + "d" * 100, limit=10) == "'a b [31m c…'"


@pytest.mark.parametrize(
    "reply",
    [
        "- [3] SQL\n- [2] Rust",
        "Ranking:\n* [3] SQL\n* [2] Rust",
        "[3]: SQL\n[2]: Rust",
        "[3] **SQL**\n[2] **Rust**",
        "[3] - SQL\n[2] - Rust",
        '[3] "SQL"\n[2] "Rust"',
        "1. [3] SQL\n2. [2] Rust",
        "1. [3]\n2. [2]",
        "- [3]\n- [2]",
        "1. **3**\n2. **2**",
    ],
)
def test_numbers_in_brackets_mark_lines(reply: str) -> None:
    assert resolve_picks(parse_picks(reply), ["Go", "Rust", "SQL"]) == [2, 1]


@pytest.mark.parametrize("reply", ['["none"]', '{"guesses": ["None of these"]}', "- N/A"])
def test_none_in_a_list_is_no_guess(reply: str) -> None:
    assert parse_guesses(reply) == []


def test_none_beside_guesses_is_left_out() -> None:
    assert parse_guesses('["SQL", "none"]') == ["SQL"]
