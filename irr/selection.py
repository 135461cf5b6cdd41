"""`Selection`: which labels may come out, by branch, by pattern or by list; of a run or a request.

In: entries to include and to exclude, and a label set. Out: a mask over its labels. A label is
allowed if it is matched by an included entry, or nothing is included, and by no excluded one.
An entry is, the first that fits:

- the id or name of a label: this label and all below it, of several labels of a name all;
- ``only:`` and an id or name: this label without those below it;
- ``re:`` and a regular expression, found anywhere in an id or a name, in any case;
- an id or name with ``*``, ``?`` or ``[…]`` in it: all labels whose whole id or name is like that,
  in any case, without those below them;
- for `read_selection` alone, and there first of all, ``@`` and a file of entries, one a line.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
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
# Masks and matches kept: of a million labels a mask takes 1 MB.
_MASKS_KEPT, _MATCHES_KEPT = 64, 1024
_Origins = Mapping[str, tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Selection:
    """Entries as `irr.selection` describes them; without any, every label is allowed.

    Args:
        regex: False refuses regular expressions, with which a stranger could keep us busy.
        origins: file and line of entries that are from a file, for errors.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    regex: bool = True
    origins: _Origins = field(default_factory=dict, compare=False, repr=False)

    def __bool__(self) -> bool:
        """Whether it says anything."""
        return bool(self.include or self.exclude)


class Selector:
    """Selections → masks over a label set. May be used from several threads.

    Masks and the labels that entries match are kept: a selection that came before costs nothing,
    and one with known entries a fraction of a millisecond.
    """

    def __init__(self, labels: LabelSet, hierarchy: Hierarchy) -> None:
        self._labels, self._hierarchy = labels, hierarchy
        self._kept = lru_cache(_MASKS_KEPT)(self._mask)
        self._matched = lru_cache(_MATCHES_KEPT)(self._positions)

    def allowed(self, *selections: Selection) -> _Mask:
        """Mark the labels that all of the selections allow: (labels,) bool, read-only.

        Raises:
            ConfigurationError: an entry matches no label, or no label is left.
            InputError: the same of an entry that is from a file; names file and line.
        """
        mask = self._kept(Selection())
        for number, selection in enumerate(filter(None, selections)):
            own = self._kept(selection)
            mask = own if number == 0 else mask & own
        if not mask.any():
            raise ConfigurationError(
                "the selection leaves no label: include more labels, or exclude fewer"
            )
        mask.flags.writeable = False
        return mask

    def _mask(self, selection: Selection) -> _Mask:
        if selection.include:
            mask = self._union(selection.include, selection)
        else:
            mask = np.ones(len(self._labels), np.bool_)
        return mask & ~self._union(selection.exclude, selection)

    def _union(self, entries: Iterable[str], selection: Selection) -> _Mask:
        mask = np.zeros(len(self._labels), np.bool_)
        for entry in entries:
            try:
                mask[self._matched(entry, selection.regex)] = True
            except ConfigurationError as error:
                if entry not in selection.origins:
                    raise
                path, line = selection.origins[entry]
                raise InputError(str(error), path=path, line=line) from None
        return mask

    def _positions(self, entry: str, regex: bool) -> npt.NDArray[np.int32]:
        """The labels that an entry matches, one at least."""
        labels = self._labels
        named = labels.find_all(entry)
        if named:
            return np.flatnonzero(self._hierarchy.below(named)).astype(np.int32)
        if entry.startswith(_ONLY):
            return np.array(self._exactly(entry.removeprefix(_ONLY)), np.int32)
        if entry.startswith(_REGEX):
            pattern = _compiled(entry, regex)
            return self._like(entry, pattern, whole=False)
        if _WILD.search(entry):
            pattern = re.compile(fnmatch.translate(entry), re.IGNORECASE)
            return self._like(entry, pattern, whole=True)
        return np.array(self._exactly(entry), np.int32)

    def _exactly(self, name: str) -> list[int]:
        positions = self._labels.find_all(name)
        if not positions:
            try:
                self._labels.position_of(name)  # It knows the names that are near.
            except LabelSetError as error:
                raise ConfigurationError(f"{error}; patterns need * or {_REGEX}") from None
        return positions

    def _like(self, entry: str, pattern: re.Pattern[str], *, whole: bool) -> npt.NDArray[np.int32]:
        fits = pattern.fullmatch if whole else pattern.search
        pairs = zip(self._labels.ids, self._labels.names, strict=True)
        found = [place for place, (id_, name) in enumerate(pairs) if fits(id_) or fits(name)]
        if not found:
            raise ConfigurationError(f"{entry!r} matches no label: neither an id nor a name")
        return np.array(found, np.int32)


def _compiled(entry: str, regex: bool) -> re.Pattern[str]:
    if not regex:
        raise ConfigurationError(f"{entry!r}: regular expressions are not taken here: use * and ?")
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

    Neither files nor regular expressions are taken: a request may come from anybody.

    >>> selection_of({"text": "Fell from a ladder.", "exclude": ["W00-X58"]}).exclude
    ('W00-X58',)

    Raises:
        ConfigurationError: one of them is no list of strings.
    """
    include, exclude = (_strings(row, key) for key in ("include", "exclude"))
    return Selection(include, exclude, regex=False)


def _strings(row: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = row.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(x, str) and x.strip() for x in value):
        raise ConfigurationError(f'"{key}" must be a list of ids, names or patterns, as strings')
    return tuple(text.strip() for text in value)
