"""Replies: what an LM wrote → guesses or picks, read strictly first and leniently after.

In: the text of a reply, of any shape. Out: a list, or `ReplyError` when nothing in it can be used,
so that the stage asks again. Pure functions without DSPy: a reply never reaches the label set
but through a candidate number or the exact name of a candidate.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import takewhile

from irr.distinct import folded
from irr.errors import ReplyError

__all__ = [
    "MAX_GUESSES",
    "MAX_GUESS_CHARS",
    "excerpt",
    "parse_guesses",
    "parse_picks",
    "resolve_picks",
]

MAX_GUESSES = 64
MAX_GUESS_CHARS = 200
# A list of guesses or numbers is far shorter; what is longer went wrong.
MOST_CHARS = 50_000

_THINKING = re.compile(r"<(think|thinking|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"^[ \t]*```[\w-]*[ \t]*$", re.MULTILINE)
# A marker in front of a list item: "-", "*", "•", "3.", "3)", "(3)".
_BULLET = re.compile(r"^\s*(?:[-*•–]|\(?\d{1,3}[.)])\s+")
# "3", "[3]", "#3" or "candidate 3" at the start of a line, then the end, a mark or a space.
_LEADING_NUMBER = re.compile(
    r"^\s*(?:[-*•–]\s*)?(?:candidate\s*)?[#(\[]?(\d{1,6})[)\].:,]?(?:\s+(.*))?$", re.IGNORECASE
)
_NUMBERS_ONLY = re.compile(
    r"(?:[A-Za-z ]{0,24}[:=])?[\s\[(#]*\d[\d\s,;>#]*(?:and\s+\d+)?[\s\])]*\.?"
)
# "[3] use databases": a number in brackets is the line's mark there, not a list of one.
_BRACKETED_LINE = re.compile(r"\[\d{1,6}\][ \t]*\w")
_NONE = re.compile(
    r"^\W*(none(?: of (?:these|them))?(?: appl(?:y|ies))?|no candidates? appl(?:y|ies)|nothing|n/a)"
    r"\W*$",
    re.IGNORECASE,
)
# The prompt's line for it, whole or in part: "0. none of these".
_NONE_OF_THESE = re.compile(
    r"^\W*(?:0\W+(?:none|nothing)\b|none of (?:these|them)\b).{0,40}$", re.IGNORECASE
)
# "I cannot say." is prose; "SQL, data bases." may be a list.
_WORDS_BEFORE_A_STOP = 3
_LIST_KEYS = ("guesses", "ranking")
_ITEM_KEYS = ("number", "candidate", "id", "index", "term", "guess", "label", "name", "text")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]+")


def parse_guesses(reply: str) -> list[str]:
    """Read the guesses out of a reply to Infer, in order, without repeats.

    Understood, in this order: a JSON object or list, also fenced or with prose around it; lines
    with bullets or numbers; one line separated by commas or semicolons. An empty list is an
    answer. Guesses are stripped, and cut to `MAX_GUESS_CHARS`; at most `MAX_GUESSES` are kept.

    >>> parse_guesses('Here you go: {"guesses": ["use databases", "SQL"]}')
    ['use databases', 'SQL']

    Raises:
        ReplyError: the reply is blank, or JSON that breaks off, or prose.
    """
    text = _clean(reply)
    items = _json_items(text)
    if items is None:
        if _NONE.match(text):
            return []
        items = _text_items(text)
    guesses: dict[str, str] = {}
    for item in items:
        if isinstance(item, str):
            guess = " ".join(_CONTROL.sub(" ", item).split())[:MAX_GUESS_CHARS].strip()
            guess = guess.encode("utf-8", "ignore").decode("utf-8")
            if any(char.isalnum() for char in guess):
                guesses.setdefault(guess.casefold(), guess)
    if any(item not in ("", None) for item in items) and not guesses:
        raise ReplyError(f"no guess in the LM's reply: {excerpt(reply)}")
    return list(guesses.values())[:MAX_GUESSES]


def parse_picks(reply: str) -> list[int | str]:
    """Read what a reply to Rank picks: candidate numbers, or names where it wrote names.

    Understood, in this order: a JSON object or list, also fenced or with prose around it; a line
    of numbers ("3, 17"); lines that begin with a number ("3. use databases") or a bullet. An
    empty list is an answer. The number 0, or "none of these", says that no more candidates apply:
    what comes after it does not count. Nothing is checked against the candidates: see
    `resolve_picks`.

    >>> parse_picks("3, 17"), parse_picks("[3, 0, 17]"), parse_picks("0")
    ([3, 17], [3], [])

    Raises:
        ReplyError: the reply is blank, or JSON that breaks off, or prose.
    """
    return list(takewhile(_picks_something, _all_picks(reply)))


def _picks_something(pick: int | str) -> bool:
    return pick != 0 and not (isinstance(pick, str) and _NONE_OF_THESE.match(pick))


def _all_picks(reply: str) -> list[int | str]:
    text = _clean(reply)
    if _BRACKETED_LINE.match(text):
        return _line_picks(text)
    items = _json_items(text)
    if items is not None:
        return [item for item in map(_number, items) if item is not None]
    if _NONE.match(text):
        return []
    if _NUMBERS_ONLY.fullmatch(text):
        return [int(number) for number in re.findall(r"\d{1,6}", text)]
    return _line_picks(text)


def resolve_picks(
    picks: Sequence[int | str], names: Sequence[str], shown: Sequence[str] = ()
) -> list[int]:
    """Positions (from 0) of the candidates that were picked, in order, without repeats.

    A number counts from 1. A text is looked up as a name first, then as "17. name", and only then
    as a number with something behind it: names may begin with numbers, and an LM that writes
    names may number its answer. Names may be written as the prompt showed them, or without what
    is in brackets at their end. A text that fits several candidates picks none of them. What is
    no candidate's is left out.

    Args:
        names: of the candidates.
        shown: the candidates' lines in the prompt, where these are more than the names.

    >>> resolve_picks([2, 9, "SQL", "1. SPARQL", 2], ["use databases", "SQL", "SPARQL"])
    [1, 2]
    >>> resolve_picks(["Cold", "Fever"], ["Cold (in: Nose)", "Cold (in: Skin)", "Fever (high)"])
    [2]
    """
    positions: dict[int, None] = {}
    known = _Names(names, shown)
    for pick in picks:
        position = pick - 1 if isinstance(pick, int) else _named(pick, known)
        if position is not None and 0 <= position < len(names):
            positions[position] = None
    return list(positions)


class _Names:
    """Finds candidates by what they are called; each way of calling them before the next."""

    def __init__(self, names: Sequence[str], shown: Sequence[str]) -> None:
        self._names = names
        self._shown = shown

    def find(self, text: str) -> list[int]:
        """The positions of the candidates that are called so."""
        key = folded(text)
        return next((table[key] for table in self._tables if key in table), [])

    # A text among the picks is rare, and these tables are nine tenths of the work.
    @cached_property
    def _tables(self) -> list[dict[str, list[int]]]:
        heads = [list(_heads(line)) for line in self._shown or self._names]
        return [
            _by_name([[line] for line in self._shown]),
            _by_name([[name] for name in self._names]),
            _by_name(heads),
        ]


def _by_name(called: Sequence[Sequence[str]]) -> dict[str, list[int]]:
    """The positions of what is called so, by how each is called."""
    table: dict[str, list[int]] = {}
    for position, names in enumerate(called):
        for name in dict.fromkeys(map(folded, names)):
            table.setdefault(name, []).append(position)
    return table


def _heads(line: str) -> Iterator[str]:
    """A line without its last brackets, without the last two, and so on."""
    head, bracket, _ = line.rpartition(" (")
    while bracket:
        yield head
        head, bracket, _ = head.rpartition(" (")


def _named(pick: str, known: _Names) -> int | None:
    found = known.find(pick)
    if not found and (match := _LEADING_NUMBER.match(pick)):
        numbered = int(match[1]) - 1
        found = known.find(match[2] or "")
        if not found or numbered in found:
            return numbered
    return found[0] if len(found) == 1 else None


def excerpt(reply: str, limit: int = 80) -> str:
    """The start of a reply, for an error message: one line, quoted."""
    line = " ".join(_CONTROL.sub(" ", reply).split())
    line = line.encode("utf-8", "replace").decode("utf-8")
    return repr(line if len(line) <= limit else line[:limit] + "…")


def _clean(reply: str) -> str:
    if len(reply) > MOST_CHARS:
        raise ReplyError(f"the LM's reply has {len(reply):,} characters: {excerpt(reply)}")
    text = _FENCE.sub("", _THINKING.sub("", reply)).strip().removeprefix("\ufeff").strip()
    if not text:
        raise ReplyError("the LM's reply is empty")
    return text


def _json_items(text: str) -> list[object] | None:
    """The list in the first JSON object or array that holds one; None where there is no JSON."""
    seen = False
    for value in _json_values(text):
        seen = True
        items = _list_in(value)
        if items is not None:
            return items
    if seen or re.match(r'^[{\[]\s*["{\[\d]', text):
        # Something that sets out as JSON but breaks off must not be read as prose: half a
        # number is another number.
        raise ReplyError(f"the LM's reply is not the JSON asked for: {excerpt(text)}")
    return None


def _json_values(text: str) -> Iterator[object]:
    """Every JSON object or array in a text, outermost, from left to right."""
    decoder = json.JSONDecoder()
    start = 0
    attempts = 0
    while (match := re.compile(r"[{\[]").search(text, start)) and attempts < 50:
        attempts += 1
        try:
            value, start = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            start = match.end()
            continue
        yield value


def _list_in(value: object) -> list[object] | None:
    if isinstance(value, list):
        return [_item(entry) for entry in value]
    if isinstance(value, dict):
        lists = {key: entry for key, entry in value.items() if isinstance(entry, list)}
        for key in [*_LIST_KEYS, *reversed(lists)]:
            if key in lists:
                return [_item(entry) for entry in lists[key]]
    return None


def _item(entry: object) -> object:
    """A list's entry; of an object in its place, the value that names it."""
    if isinstance(entry, dict):
        for key in _ITEM_KEYS:
            if key in entry:
                found: object = entry[key]
                return found
    return entry


def _text_items(text: str) -> list[object]:
    lines = [line for line in text.splitlines() if line.strip()]
    marked = [_BULLET.sub("", line) for line in lines if _BULLET.match(line)]
    if marked:
        return list(marked)
    if len(lines) == 1 and len(lines[0]) <= 2000:
        parts = [part.strip(" .'\"") for part in re.split(r"[,;]", lines[0])]
        # A sentence is not a list: terms of a label set are a few words long, and have no stop.
        most = _WORDS_BEFORE_A_STOP if lines[0].rstrip()[-1] in ".!?" else 8
        if all(0 < len(part.split()) <= most and len(part) <= 80 for part in parts):
            return list(parts)
    raise ReplyError(f"no list in the LM's reply: {excerpt(text)}")


def _line_picks(text: str) -> list[int | str]:
    picks: list[int | str] = []
    for line in text.splitlines():
        if match := _LEADING_NUMBER.match(line):
            rest = (match[2] or "").strip()
            # "1. 17": an enumeration of numbers, where the second is the pick.
            alone = int(rest) if rest.isdecimal() and len(rest) <= 6 else int(match[1])
            picks.append(line.strip() if rest and not rest.isdecimal() else alone)
        elif _BULLET.match(line):
            picks.append(_BULLET.sub("", line).strip())
    if not picks:
        raise ReplyError(f"no numbers in the LM's reply: {excerpt(text)}")
    return picks


def _number(item: object) -> int | str | None:
    if isinstance(item, bool):
        return None
    if isinstance(item, int):
        return item
    if isinstance(item, float):
        return int(item) if item.is_integer() and abs(item) < 1e9 else None
    if isinstance(item, str):
        match = _LEADING_NUMBER.match(item)
        return int(match[1]) if match and not match[2] else item
    return None
