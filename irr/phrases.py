"""A text → its own queries: the text itself, its clauses, and its phrases of up to six words.

Comes in: raw text. Goes out: `Phrases`, the distinct queries with the clause that each is from.
They are the queries of a run without an LM, and stand beside an LM's guesses in one with it.

How a text is read:

1. Tags such as ``<ORGANIZATION>`` or ``<br/>`` become " . ", so do the control characters
   U+0080–U+009F, which come from texts decoded wrongly.
2. A word is a run of letters, digits and combining marks, which may hold ``- + # ' . _`` inside
   and ``+ #`` at its end (C++, C#, Node.js). Any other visible character, and an empty line,
   ends a clause; clauses are also split at and/or.
3. A phrase is a run of one to six words of a clause (across and/or) whose first and last words
   are not English function words.

Scripts written without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese) have each
character read as a word, runs of Katakana as one: phrases are then windows of characters.

Long texts: at most `max_queries` queries come out, in time and memory linear in the text. The
longest windows are given up first, then an even spread over the text is kept.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = [
    "MAX_QUERIES",
    "MAX_QUERY_CHARACTERS",
    "MAX_WORDS",
    "STOP_WORDS",
    "Phrases",
    "is_unspaced",
    "phrases",
    "tokens",
]

MAX_WORDS = 6
MAX_QUERIES = 512
# Encoders read a few hundred word pieces and cut the rest off.
MAX_QUERY_CHARACTERS = 2000

_FUNCTION_WORDS = """
    a about above after again against all also am an and any are as at be because been before
    being below between both but by can could did do does doing down during each either etc few
    for from further had has have having he her here hers him his how i if in into is it its
    itself just may me might more most must my neither no nor not of off on once only onto or
    other our ours out over own per shall she should so some such than that the their theirs them
    then there these they this those through to too under until up upon us very via was we were
    what when where whether which while who whom whose why will with within without would you
    your yours
"""
STOP_WORDS = frozenset(_FUNCTION_WORDS.split())
_CONJUNCTIONS = frozenset({"and", "or"})

_TAG = re.compile(r"</?[A-Za-z][^<>]{0,80}>")
_LATIN_CONTROLS = dict.fromkeys(range(0x80, 0xA0), " . ")
# In `_shape`, NUL stands for a character that belongs to a word but is not \w.
_UNSPACED = (
    "\u3005-\u3007\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u309f\u3400-\u4dbf\u4e00-\u9fff"
)
_UNSPACED += "\uf900-\ufaff\U00020000-\U0003ffff"
_LETTER = rf"[^\W{_UNSPACED}]"
_TOKEN = re.compile(
    rf"(?P<word>(?:{_LETTER}[\0]*)+(?:[-+#'’.]+(?:{_LETTER}[\0]*)+)*[+#]*|[{_UNSPACED}][\0]*)"
    r"|(?P<end>\n[^\S\n]*\n\s*|[^\s\0])"
)
_UNSPACED_START = re.compile(f"[{_UNSPACED}]")
_JOINERS = "\u00ad\u200c\u200d\u2060"

_Word = tuple[int, int, bool]  # start, end, is it a stop word
_Query = tuple[str, int]  # text, clause


@dataclass(frozen=True, slots=True)
class Phrases:
    """The queries of one text.

    `queries` are distinct without regard to case (the first form is kept) and ordered: the text,
    its clauses, then the phrases by place and length. `clauses[i]` is the number, from 0, of the
    clause that query i first occurs in, or -1 for the whole text where that is not one clause.
    `reduced` says that the text had more queries than fit. `text` is all of it, without tags.
    """

    queries: tuple[str, ...] = ()
    clauses: tuple[int, ...] = ()
    reduced: bool = False
    text: str = ""

    def __len__(self) -> int:
        return len(self.queries)


def phrases(text: str, *, max_words: int = MAX_WORDS, max_queries: int = MAX_QUERIES) -> Phrases:
    """The queries of a text; of a blank text, none.

    >>> found = phrases("Knowledge of C++ and Git, fluent")
    >>> found.queries[:4]
    ('Knowledge of C++ and Git, fluent', 'Knowledge of C++', 'Git', 'fluent')
    >>> found.queries[4:]
    ('Knowledge', 'Knowledge of C++ and Git', 'C++', 'C++ and Git')
    >>> found.clauses
    (-1, 0, 0, 1, 0, 0, 0, 0)

    Args:
        max_words: longest phrase in words, 1 or more.
        max_queries: most queries that come out, 3 or more.
    """
    if max_words < 1 or max_queries < 3:
        raise ValueError("max_words must be at least 1 and max_queries at least 3")
    whole = _squeeze(text)
    if not whole:
        return Phrases()
    cleaned = _TAG.sub(" . ", text).translate(_LATIN_CONTROLS)
    runs = [run for run in _runs(cleaned) if run]
    clauses = _distinct(_clauses(cleaned, runs))
    kept_clauses = _spread(clauses, max_queries // 2)
    room = max_queries - 1 - len(kept_clauses)
    longest = _longest_that_fits(runs, max_words, room)
    windows = _distinct(_windows(cleaned, runs, longest))
    kept_windows = _spread(windows, room)
    reduced = (len(kept_clauses), len(kept_windows)) < (len(clauses), len(windows))
    found = _distinct([(whole, -1), *kept_clauses, *kept_windows])
    if kept_clauses and kept_clauses[0][0].casefold() == whole.casefold():
        found[0] = (whole, 0)
    queries, owners = zip(*found, strict=True)
    return Phrases(queries, owners, reduced or longest < max_words, cleaned)


def tokens(text: str) -> Iterator[str]:
    """The words of a text, and between them the characters and empty lines that end clauses.

    >>> list(tokens("Node.js, C++"))
    ['Node.js', ',', 'C++']
    """
    shape = _shape(text)
    return (text[token.start() : token.end()] for token in _TOKEN.finditer(shape))


def is_unspaced(word: str) -> bool:
    """Whether a word is a character of a script that is written without spaces."""
    return _UNSPACED_START.match(word) is not None


def _runs(text: str) -> Iterator[list[_Word]]:
    """The words of each clause; a clause without words comes out empty."""
    run: list[_Word] = []
    for token in _TOKEN.finditer(_shape(text)):
        if token["word"] is None:
            yield run
            run = []
        else:
            start, end = token.span()
            run.append((start, end, text[start:end].casefold() in STOP_WORDS))
    yield run


def _shape(text: str) -> str:
    """The text with NUL for each mark and joiner, which \\w does not match; the same length."""
    rare = {c for c in set(text) if c > "\x7f"}
    marks = {c for c in rare if unicodedata.category(c).startswith("M")}
    table = {ord(c): "\0" for c in marks | (rare & set(_JOINERS))}
    return text.replace("\0", " ").translate(table)


def _clauses(text: str, runs: list[list[_Word]]) -> Iterator[_Query]:
    for clause, run in enumerate(runs):
        for part in _split_at_conjunctions(text, run):
            yield _slice(text, part), clause


def _split_at_conjunctions(text: str, run: list[_Word]) -> list[list[_Word]]:
    parts: list[list[_Word]] = [[]]
    for word in run:
        if text[word[0] : word[1]].casefold() in _CONJUNCTIONS:
            parts.append([])
        else:
            parts[-1].append(word)
    return [part for part in parts if not all(stop for _, _, stop in part)]


def _windows(text: str, runs: list[list[_Word]], longest: int) -> Iterator[_Query]:
    for clause, run in enumerate(runs):
        for first, (_, _, stop) in enumerate(run):
            if stop:
                continue
            for last in range(first, min(first + longest, len(run))):
                if not run[last][2]:
                    yield _slice(text, run[first : last + 1]), clause


def _longest_that_fits(runs: list[list[_Word]], max_words: int, room: int) -> int:
    """The longest window length, at least 1, at which all windows together are at most `room`."""
    total = 0
    for length in range(1, max_words + 1):
        for run in runs:
            starts = range(len(run) - length + 1)
            total += sum(not run[i][2] and not run[i + length - 1][2] for i in starts)
        if total > room:
            return max(1, length - 1)
    return max_words


def _distinct(queries: Iterable[_Query]) -> list[_Query]:
    found: dict[str, _Query] = {}
    for query in queries:
        found.setdefault(query[0].casefold(), query)
    return list(found.values())


def _spread(items: list[_Query], most: int) -> list[_Query]:
    """At most `most` items at even distances, the first among them."""
    if len(items) <= most:
        return items
    return [items[i * len(items) // most] for i in range(most)]


def _slice(text: str, words: list[_Word]) -> str:
    return _squeeze(text[words[0][0] : words[-1][1]])


def _squeeze(text: str) -> str:
    """One space for each run of white space, and no longer than an encoder reads."""
    return " ".join(text[: 2 * MAX_QUERY_CHARACTERS].split())[:MAX_QUERY_CHARACTERS].rstrip()
