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
    r"(?:[A-Za-z ]{0,24}[:=])?[\s\[(#]*\d[\d\s,;>#\[\]]*(?:and\s+\d+[\s\]]*)?\)?\.?"
)
# "[3] use databases", "- [3]: SQL", "1. [3]": a number in brackets is the line's mark there, not a
# list of one.
_BRACKETED_LINE = re.compile(
    r"^[ \t]*(?:[-*•–][ \t]*|\(?\d{1,3}[.)][ \t]*)?\[(\d{1,6})\]"
    r"[ \t]*(?:[^\s\w,\[\]]*[ \t]*(\w.*))?$",
    re.MULTILINE,
)
_CHOICES = r"(?:candidate|label|option|term|choice|item|one|categor(?:y|ie))s?"
_OF_THESE = (
    r" of (?:(?:the|these|those) )?(?:\d+ )?(?:(?:above|given|listed|following|provided) )?"
    rf"(?:{_CHOICES}|them|these|those|above)(?: (?:above|given|listed|shown|provided))?"
)
_APPLY = (
    r" (?:(?:really|clearly|directly|would|seems? to) )?(?:appl(?:y|ies)|fits?|match(?:es)?|found|"
    r"(?:(?:is|are) )?(?:applicable|relevant|suitable|appropriate))"
)
_NONE = re.compile(
    rf"\W*(?:there (?:is|are) )?(?:(?:none|nothing)(?:{_OF_THESE})?|not applicable|n/a|"
    rf"no (?:(?:applicable|relevant|suitable|matching|such) )?{_CHOICES})(?:{_APPLY})?"
    r"(?: here| (?:to|for|in|with) (?:this|the) (?:text|document|query|input))?\W*",
    re.IGNORECASE,
)
# The prompt's words for it with a few behind them, but not "none of these except the last".
_NONE_OF_THESE = re.compile(
    r"\W*none of (?:these|them)\b(?!.*\b(?:but|except|besides|only|other)\b)[^\d\n]{0,40}",
    re.IGNORECASE,
)
_ZERO = re.compile(r"\W*0[)\].:,]+\s")
# Where "0. none of these" stands, counted as the candidates' positions are.
_NONE_APPLIES = -1
# "I cannot say." is prose; "SQL, data bases." may be a list.
_WORDS_BEFORE_A_STOP = 3
# What an object in a list is named by, the better names first. A "position" may be its rank.
_GUESS_KEYS = ("term", "guess", "label", "name", "text", "candidate")
_PICK_KEYS = ("number", "candidate", "id", "index", "label", "name", "term", "text", "position")
_RANK_KEYS = {"rank", "order", "score", "confidence"}
_KEY_WORDS = re.compile(r"[\W_]+|(?<=[a-z])(?=[A-Z])")
_OPENING = re.compile(r"[{\[]")
_MOST_BROKEN = 50
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
    entries = _json_items(text, "guesses")
    if entries is None:
        if _NONE.fullmatch(text):
            return []
        entries = _text_items(text)
    guesses: dict[str, str] = {}
    none = False
    for entry in entries:
        item = _unwrapped(entry, _GUESS_KEYS)
        if isinstance(item, str):
            guess = " ".join(_CONTROL.sub(" ", item).split())[:MAX_GUESS_CHARS].strip()
            guess = guess.encode("utf-8", "ignore").decode("utf-8")
            if _says_none(guess):
                none = True
            elif any(char.isalnum() for char in guess):
                guesses.setdefault(guess.casefold(), guess)
    if any(entry not in ("", None) for entry in entries) and not guesses and not none:
        raise ReplyError(f"no guess in the LM's reply: {excerpt(reply)}")
    return list(guesses.values())[:MAX_GUESSES]


def parse_picks(reply: str) -> list[int | str]:
    """Read what a reply to Rank picks: candidate numbers, or names where it wrote names.

    Understood, in this order: numbers alone ("3, 17"); the last JSON object with a list, also
    fenced or with prose around it; lines that begin with a number ("3. use databases", "[3] SQL");
    a JSON list in prose; lines with bullets. An empty list is an answer, and so is "none of the
    candidates apply". The number 0 says that no more candidates apply: what comes after it does
    not count. Nothing is checked against the candidates: see `resolve_picks`, which deals with
    "none" in a list too, since a candidate may be called so.

    >>> parse_picks("3, 17"), parse_picks("[3, 0, 17]"), parse_picks("0")
    ([3, 17], [3], [])

    Raises:
        ReplyError: the reply is blank, or JSON that breaks off, or prose, or a list in which
            nothing is a number or text.
    """
    entries = _pick_entries(_clean(reply))
    picks = [pick for pick in map(_pick, entries) if pick is not None]
    if entries and not picks:
        raise ReplyError(f"no pick in the LM's reply: {excerpt(reply)}")
    return list(takewhile(lambda pick: pick != 0, picks))


def _pick_entries(text: str) -> Sequence[object]:
    # More brackets opened than closed: a list that breaks off.
    if _NUMBERS_ONLY.fullmatch(text) and text.count("[") <= text.count("]"):
        # No label set has as many labels: a number that is cut here is no candidate's either way.
        return [int(number[:18]) for number in re.findall(r"\d+", text)]
    entries = _json_items(text, "ranking")
    if entries is not None:
        return entries
    return [] if _says_none(text) else _line_picks(text)


def _says_none(text: str) -> bool:
    return bool(_NONE.fullmatch(text) or _NONE_OF_THESE.fullmatch(text))


def resolve_picks(
    picks: Sequence[int | str], names: Sequence[str], shown: Sequence[str] = ()
) -> list[int] | None:
    """Positions (from 0) of the candidates that were picked, in order, without repeats.

    None where there are picks and none of them is a candidate's: such a reply is no answer.

    A number counts from 1. A text is looked up as a name first, then as "17. name", and only then
    as a number with something behind it: names may begin with numbers, and an LM that writes
    names may number its answer. Names may be written as the prompt showed them, or without what
    is in brackets at their end. A text that fits several candidates picks none of them. The number
    0, and a text such as "none of these" or "1. None" that is no candidate's, says that no more
    apply: what comes after it does not count. What else is no candidate's is left out.

    Args:
        names: of the candidates.
        shown: the candidates' lines in the prompt, where these are more than the names.

    >>> resolve_picks([2, 9, "SQL", "1. SPARQL", 2], ["use databases", "SQL", "SPARQL"])
    [1, 2]
    >>> resolve_picks(["Cold", "Fever"], ["Cold (in: Nose)", "Cold (in: Skin)", "Fever (high)"])
    [2]
    >>> resolve_picks(["SQL", "none", "COBOL"], ["COBOL", "SQL"]), resolve_picks([9], ["COBOL"])
    ([1], None)
    """
    positions: dict[int, None] = {}
    known = _Names(names, shown)
    for pick in picks:
        position = pick - 1 if isinstance(pick, int) else _named(pick, known)
        if position == _NONE_APPLIES:
            return list(positions)
        if position is not None and 0 <= position < len(names):
            positions[position] = None
    return list(positions) if positions or not picks else None


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
    """The position of the candidate that a text picks; `_NONE_APPLIES` where it says so."""
    found = known.find(pick)
    if not found:
        match = _LEADING_NUMBER.match(pick)
        rest = (match[2] or "") if match else pick
        numbered = int(match[1]) - 1 if match else None
        none = _says_none(rest)
        # The prompt's own "0. none of these", whatever a candidate is called.
        found = known.find(rest) if match and not (none and numbered == _NONE_APPLIES) else []
        if not found and (none or _ZERO.match(pick)):
            return _NONE_APPLIES
        if not found or numbered in found:
            # "0 emission" and no such candidate: a name that was made up.
            return None if numbered == _NONE_APPLIES else numbered
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


def _json_items(text: str, key: str) -> list[object] | None:
    """The list in a reply's JSON; None where there is no JSON.

    The last object with a list at `key` counts, or else the last with one list at all: an LM may
    think aloud before it answers. An array without an object counts where there is no other.
    """
    values = list(_json_values(text))
    objects = [_lists(value) for value in values if isinstance(value, dict)]
    asked_for = [lists[key] for lists in objects if key in lists]
    alike = [next(iter(lists.values())) for lists in objects if len(lists) == 1]
    if asked_for or alike:
        return (asked_for or alike)[-1]
    if _BRACKETED_LINE.search(text):
        return None
    arrays = [value for value in values if isinstance(value, list)]
    if arrays and all(array == arrays[0] for array in arrays):
        return arrays[0]
    if values or re.match(r'^[{\[]\s*["{\[\d]', text):
        # Something that sets out as JSON but breaks off must not be read as prose: half a
        # number is another number.
        raise ReplyError(f"the LM's reply is not the JSON asked for: {excerpt(text)}")
    return None


def _lists(value: dict[str, object]) -> dict[str, list[object]]:
    return {key: entry for key, entry in value.items() if isinstance(entry, list)}


def _json_values(text: str) -> Iterator[object]:
    """Every JSON object or array in a text, outermost, from left to right."""
    decoder = json.JSONDecoder()
    start = 0
    broken = 0
    while (match := _OPENING.search(text, start)) and broken < _MOST_BROKEN:
        try:
            value, start = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            broken += 1
            start = match.end()
            continue
        yield value


def _unwrapped(entry: object, keys: Sequence[str]) -> object:
    """A list's entry; of a list of one that one, of an object the value that names it."""
    while isinstance(entry, list | dict):
        if isinstance(entry, dict):
            entry = _naming(entry, keys)
        else:
            entry = entry[0] if len(entry) == 1 else None
    return entry


def _naming(entry: dict[str, object], keys: Sequence[str]) -> object:
    words = {key: {word.lower() for word in _KEY_WORDS.split(key)} for key in entry}
    naming = [key for key in entry if not words[key] & _RANK_KEYS and entry[key] is not None]
    return next((entry[name] for word in keys for name in naming if word in words[name]), None)


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
        if match := _BRACKETED_LINE.match(line):
            picks.append(f"[{match[1]}] {match[2].strip()}" if match[2] else int(match[1]))
        elif match := _LEADING_NUMBER.match(line):
            rest = (match[2] or "").strip()
            if (plain := rest.strip("*_`")).isdecimal():
                rest = plain
            # "1. 17": an enumeration of numbers, where the second is the pick.
            alone = int(rest) if rest.isdecimal() and len(rest) <= 6 else int(match[1])
            picks.append(line.strip() if rest and not rest.isdecimal() else alone)
        elif _BULLET.match(line):
            picks.append(_BULLET.sub("", line).strip())
    if not picks:
        raise ReplyError(f"no numbers in the LM's reply: {excerpt(text)}")
    return picks


def _pick(entry: object) -> int | str | None:
    item = _unwrapped(entry, _PICK_KEYS)
    if isinstance(item, bool):
        return None
    if isinstance(item, int):
        return item
    if isinstance(item, float):
        return int(item) if item.is_integer() and abs(item) < 1e9 else None
    if isinstance(item, str) and item.strip():
        match = _LEADING_NUMBER.match(item)
        return int(match[1]) if match and not match[2] else item
    return None
