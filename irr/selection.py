"""`Selection`: which labels may come out, by branch, by pattern or by list; of a run or a document.

In: entries to include and to exclude, and a label set. Out: a mask over its labels. A label is
allowed if it is matched by an included entry, or nothing is included, and by no excluded one.
An entry is, the first that fits:

- the id or name of a label: this label and all below it, of several labels of a name all;
- ``only:`` and an id or name: this label without those below it;
- ``re:`` and a regular expression, found anywhere in an id or a name, in any case; not where
  anybody may have written the entry, as in a document;
- an id or name with ``*``, ``?`` or ``[…]`` in it: all labels whose whole id or name is like that,
  in any case, without those below them; where anybody may have written it, of 1,000 characters
  at most;
- for `read_selection` alone, and there first of all, ``@`` and a file of entries, one a line.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from irr.errors import ConfigurationError, InputError, LabelSetError
from irr.files import TextFile

if TYPE_CHECKING:
    from irr.hierarchy import Hierarchy
    from irr.labels import LabelSet

__all__ = ["Selection", "Selector", "read_selection", "selection_of"]

_Mask = npt.NDArray[np.bool_]
_ONLY, _REGEX, _FILE = "only:", "re:", "@"
_WILD = re.compile(r"[*?\[]")
# What is kept is bounded by its bytes: a mask takes one for each label, the matches of a pattern
# an eighth; and by its number, of few labels.
_MASK_BYTES, _MATCH_BYTES = 1 << 27, 1 << 26
_FEWEST, _MOST = 16, 4096
# Making a pattern of an entry takes time by the square of its length.
_LONGEST_UNTRUSTED = 1_000
_Origins = Mapping[str, tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Selection:
    """Entries as `irr.selection` describes them; without any, every label is allowed.

    Args:
        include, exclude: entries; lists become tuples.
        trusted: False for entries that anybody may have written: what a stranger could keep us
            busy with is not done for them, regular expressions, long patterns and the search for
            similar names.
        origins: file and line of entries that are from a file, for errors.

    Raises:
        ConfigurationError: one of them is no list or tuple of strings.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    trusted: bool = True
    origins: _Origins = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for key in ("include", "exclude"):
            object.__setattr__(self, key, _strings(getattr(self, key), key))

    def __bool__(self) -> bool:
        """Whether it says anything."""
        return bool(self.include or self.exclude)


class Selector:
    """Selections → masks over a label set. May be used from several threads.

    Masks and what patterns match are kept, up to 200 MB of them: selections that came before cost
    nothing. Others take time by their entries and by the number of labels: of a million, a
    millisecond, and a second for each pattern that did not come before.
    """

    def __init__(self, labels: LabelSet, hierarchy: Hierarchy) -> None:
        self._labels, self._hierarchy = labels, hierarchy
        self._kept = lru_cache(_number_kept(_MASK_BYTES, len(labels)))(self._mask)
        self._matched = lru_cache(_number_kept(_MATCH_BYTES, len(labels) // 8))(self._matches)
        self._unknown = lru_cache(_MOST)(self._say_unknown)

    def allowed(self, *selections: Selection, leaves: bool = False) -> _Mask:
        """Mark the labels that all of the selections allow: (labels,) bool, read-only.

        Args:
            selections: the last is that of a document, if there are several; those before it, of
                which there are few, are looked up only once.
            leaves: allow no label that has others below it.

        Raises:
            ConfigurationError: an entry matches no label, or no label is left.
            InputError: the same of an entry that is from a file; names file and line.
        """
        return self._kept(tuple(filter(None, selections)), leaves)

    def _mask(self, selections: Sequence[Selection], leaves: bool) -> _Mask:
        *before, last = selections or (Selection(),)
        mask = self._mask_of(last)
        if before:
            mask &= self._kept(tuple(before), leaves)
        elif leaves:
            mask &= self._hierarchy.leaves
        if not mask.any():
            what = "the selection leaves no label"
            if leaves:
                what = "--prefer leaf: the selection leaves no leaf"
            raise ConfigurationError(f"{what}: include more labels, or exclude fewer")
        mask.flags.writeable = False
        return mask

    def _mask_of(self, selection: Selection) -> _Mask:
        if not selection.include:
            return ~self._union(selection.exclude, selection)
        mask = self._union(selection.include, selection)
        if selection.exclude:
            mask &= ~self._union(selection.exclude, selection)
        return mask

    def _union(self, entries: Iterable[str], selection: Selection) -> _Mask:
        """The labels that any of the entries matches."""
        mask = np.zeros(len(self._labels), np.bool_)
        tops: list[int] = []
        for entry in entries:
            # What is below many labels takes no longer to find than what is below one.
            if named := self._labels.find_all(entry):
                tops += named
                continue
            try:
                self._mark(mask, entry, selection.trusted)
            except ConfigurationError as error:
                if entry not in selection.origins:
                    raise
                path, line = selection.origins[entry]
                raise InputError(str(error), path=path, line=line) from None
        if tops:
            mask |= self._hierarchy.below(tops)
        return mask

    def _mark(self, mask: _Mask, entry: str, trusted: bool) -> None:
        """Mark what an entry matches that is no id or name."""
        if entry.startswith(_ONLY):
            mask[self._exactly(entry.removeprefix(_ONLY), trusted)] = True
        elif not trusted and len(entry) > _LONGEST_UNTRUSTED:
            raise ConfigurationError(
                f"an entry of {len(entry):,} characters, {entry[:20]!r}…, is no id or name; "
                f"patterns of more than {_LONGEST_UNTRUSTED:,} characters are not taken here"
            )
        elif entry.startswith(_REGEX) and not trusted:
            raise ConfigurationError(
                f"{entry!r}: regular expressions are not taken here: use * and ?"
            )
        elif entry.startswith(_REGEX) or _WILD.search(entry):
            matched = self._matched(entry)
            if matched is None:
                raise ConfigurationError(f"{entry!r} matches no label: neither an id nor a name")
            mask |= np.unpackbits(matched, count=len(mask)).view(np.bool_)
        else:
            self._exactly(entry, trusted)  # It says that there is none.

    def _exactly(self, name: str, trusted: bool) -> list[int]:
        positions = self._labels.find_all(name)
        if not positions:
            raise ConfigurationError(
                self._unknown(name) if trusted else f"no label has the id or name {name!r}"
            )
        return positions

    def _say_unknown(self, name: str) -> str:
        try:
            self._labels.position_of(name)  # It knows the names that are near.
        except LabelSetError as error:
            return f"{error}; patterns need * or {_REGEX}"
        raise AssertionError(f"{name!r} is known")

    def _matches(self, entry: str) -> npt.NDArray[np.uint8] | None:
        """The labels that a pattern matches, 8 to a byte; None for none."""
        if entry.startswith(_REGEX):
            fits = _compiled(entry).search
        else:
            fits = re.compile(fnmatch.translate(entry), re.IGNORECASE).fullmatch
        pairs = zip(self._labels.ids, self._labels.names, strict=True)
        found = np.fromiter(
            (bool(fits(id_) or fits(name)) for id_, name in pairs), np.bool_, len(self._labels)
        )
        return np.packbits(found) if found.any() else None


def _number_kept(most_bytes: int, size: int) -> int:
    return min(_MOST, max(_FEWEST, most_bytes // max(size, 1)))


def _compiled(entry: str) -> re.Pattern[str]:
    try:
        return re.compile(entry.removeprefix(_REGEX), re.IGNORECASE)
    except re.error as error:
        raise ConfigurationError(f"{entry!r} is no regular expression: {error}") from None


def read_selection(include: Iterable[str] = (), exclude: Iterable[str] = ()) -> Selection:
    """Make the selection of a command line: entries, and ``@FILE`` for a file of them.

    Raises:
        InputError: a file cannot be read, or holds no entries.
    """
    origins: dict[str, tuple[str, int]] = {}
    included, excluded = (tuple(_expanded(entries, origins)) for entries in (include, exclude))
    return Selection(included, excluded, origins=origins)


def _expanded(entries: Iterable[str], origins: dict[str, tuple[str, int]]) -> Iterable[str]:
    for entry in entries:
        if not entry.startswith(_FILE):
            yield entry
            continue
        file = TextFile(entry.removeprefix(_FILE), InputError)
        lines = [(number, text.strip()) for number, text in file.lines() if text.strip()]
        if not lines:
            raise file.failure("holds no entries: write an id, a name or a pattern on each line")
        for number, text in lines:
            origins.setdefault(text, (file.name, number))
            yield text


def selection_of(row: Mapping[str, object]) -> Selection:
    """Read the selection of one document or request: "include" and "exclude", lists of strings.

    Neither files nor regular expressions are taken: a request may come from anybody. Null and an
    empty list say nothing.

    >>> selection_of({"text": "Fell from a ladder.", "exclude": ["W00-X58"]}).exclude
    ('W00-X58',)

    Raises:
        ConfigurationError: one of them is no list (or tuple) of strings that are not blank.
    """
    include, exclude = (_given(row, key) for key in ("include", "exclude"))
    return Selection(include, exclude, trusted=False)


def _given(row: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = row.get(key)
    entries = () if value is None else tuple(map(str.strip, _strings(value, key)))
    if not all(entries):
        raise _no_list(key)
    return entries


def _strings(value: object, key: str) -> tuple[str, ...]:
    if isinstance(value, list | tuple) and all(isinstance(entry, str) for entry in value):
        return tuple(value)
    raise _no_list(key)


def _no_list(key: str) -> ConfigurationError:
    return ConfigurationError(f'"{key}" must be a list of ids, names or patterns, as strings')
