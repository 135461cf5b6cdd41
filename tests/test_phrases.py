"""`phrases`: hand-worked texts, and what holds for any Unicode."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irr.phrases import MAX_QUERIES, MAX_QUERY_CHARACTERS, STOP_WORDS, Phrases, phrases


def by_clause(found: Phrases) -> dict[int, list[str]]:
    groups: dict[int, list[str]] = {}
    for query, clause in zip(found.queries, found.clauses, strict=True):
        groups.setdefault(clause, []).append(query)
    return groups


def test_hand_worked_sentence() -> None:
    found = phrases("Design and analysis of tests, in Node.js.")
    assert found.queries == (
        "Design and analysis of tests, in Node.js.",
        "Design",
        "analysis of tests",
        "in Node.js",
        "Design and analysis",
        "Design and analysis of tests",
        "analysis",
        "tests",
        "Node.js",
    )
    assert found.clauses == (-1, 0, 0, 1, 0, 0, 0, 0, 1)
    assert not found.reduced


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("C++", ["C++"]),
        ("C# F# R", ["C#", "F#", "R"]),
        ("Node.js.", ["Node.js"]),
        ("e-mail, O'Reilly", ["e-mail", "O'Reilly"]),
        ("3+ years", ["3+", "years"]),
        ("CI/CD", ["CI", "CD"]),
        ("हिन्दी में काम", ["हिन्दी", "में", "काम"]),
        ("e\u0301te\u0301", ["e\u0301te\u0301"]),
        ("کتاب\u200cها", ["کتاب\u200cها"]),
        ("データ処理", ["データ", "処", "理"]),
        ("❤️ care", ["care"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    found = phrases(text, max_words=1)
    assert [word for word in words if word not in found.queries] == []
    extra = [query for query in found.queries if query not in words]
    assert all(any(c in " /,.❤" for c in query) or query == text for query in extra)


def test_text_without_spaces_gives_windows_of_characters() -> None:
    assert phrases("我们的", max_words=2).queries == ("我们的", "我", "我们", "们", "们的", "的")


def test_tags_controls_and_empty_lines_end_a_clause() -> None:
    assert by_clause(phrases("a1 <ORG> b1\x85c1\n \nd1\ne1")) == {
        -1: ["a1 <ORG> b1 c1 d1 e1"],
        0: ["a1"],
        1: ["b1"],
        2: ["c1"],
        3: ["d1 e1", "d1", "e1"],
    }


def test_comparisons_are_not_tags() -> None:
    assert "BMI" in phrases("BMI < 30 and age > 60").queries
    assert "30 and age" in phrases("BMI < 30 and age > 60").queries


def test_repeats_differing_in_case_come_once_in_their_first_form() -> None:
    assert phrases("Java. JAVA, java").queries == ("Java. JAVA, java", "Java")


def test_windows_do_not_begin_or_end_with_stop_words() -> None:
    found = phrases("of the art of war in the air", max_words=5)
    assert found.queries[1:] == ("art", "art of war", "war", "war in the air", "air")


@pytest.mark.parametrize("text", ["", " \n\t", "\u2003"])
def test_blank(text: str) -> None:
    assert phrases(text) == Phrases()


def test_text_that_is_one_clause_belongs_to_it() -> None:
    assert by_clause(phrases("Java  skills")) == {0: ["Java skills", "Java", "skills"]}
    assert by_clause(phrases("Java.")) == {-1: ["Java."], 0: ["Java"]}


def test_only_stop_words_leaves_the_text() -> None:
    assert phrases("of the").queries == ("of the",)


def test_long_text_is_reduced_over_its_whole_length() -> None:
    found = phrases(" ".join(f"w{i}" for i in range(50_000)))
    assert found.reduced
    assert len(found) <= MAX_QUERIES
    assert max(map(len, found.queries)) <= MAX_QUERY_CHARACTERS
    numbers = [int(query[1:]) for query in found.queries[2:]]
    assert numbers == sorted(numbers)
    assert numbers[0] < 200 and numbers[-1] > 49_800


def test_shorter_windows_come_before_fewer() -> None:
    found = phrases(" ".join(f"w{i}" for i in range(20)), max_queries=62)
    assert found.reduced
    # 20 + 19 + 18 windows fit beside the text, three words long at most.
    assert len(found) == 1 + 57
    assert max(len(query.split()) for query in found.queries[1:]) == 3


def test_many_clauses_leave_room_for_phrases() -> None:
    found = phrases(", ".join(f"use w{i}" for i in range(300)), max_queries=100)
    assert found.reduced
    assert len(found) <= 100
    assert found.queries[1] == "use w0"


def test_bad_limits() -> None:
    with pytest.raises(ValueError, match="max_words"):
        phrases("text", max_words=0)


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=200), st.integers(1, 7), st.integers(3, 40))
def test_any_text(text: str, max_words: int, max_queries: int) -> None:
    found = phrases(text, max_words=max_words, max_queries=max_queries)
    assert len(found.queries) == len(found.clauses) <= max_queries
    assert bool(found.queries) == bool(text.strip())
    folded = [query.casefold() for query in found.queries]
    assert len(set(folded)) == len(folded)
    assert all(query == " ".join(query.split()) and query for query in found.queries)
    assert -1 not in found.clauses[1:]
    if not any(c in "<\0" or "\x80" <= c <= "\x9f" for c in text):
        squeezed = " ".join(text.split())
        assert all(query in squeezed for query in found.queries)
    assert found == phrases(text, max_words=max_words, max_queries=max_queries)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["use", "Java", "and", "the", ",", "SQL"]), max_size=12))
def test_windows_equal_a_plain_double_loop(tokens: list[str]) -> None:
    runs: list[list[str]] = [[]]
    for token in tokens:
        if token == ",":
            runs.append([])
        else:
            runs[-1].append(token)
    expected = {
        " ".join(run[i:j])
        for run in runs
        for i in range(len(run))
        for j in range(i + 1, min(i + 6, len(run)) + 1)
        if run[i] not in STOP_WORDS and run[j - 1] not in STOP_WORDS
    }
    found = phrases(" ".join(tokens))
    assert {phrase.casefold() for phrase in expected} <= {q.casefold() for q in found.queries}
    clauses = sum(clause >= 0 for clause in found.clauses)
    assert clauses <= len({phrase.casefold() for phrase in expected}) + 2 * len(tokens)
