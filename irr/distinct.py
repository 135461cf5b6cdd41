"""Labels that share their name, told apart: by what they are in, else by their id.

In: labels. Out: for each of them whose name another label has too, what to write behind the name,
so that whoever reads it knows which is meant. Names count as the same whatever their case and
white space.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from irr.types import Label

__all__ = ["distinctions", "folded"]

_MOST_LEVELS = 8


def folded(name: str) -> str:
    """What two texts have in common that are the same name."""
    return " ".join(name.split()).casefold()


def distinctions(labels: Sequence[Label], places: Mapping[str, int]) -> dict[int, str]:
    """What tells labels of the same name apart: by position, for these labels only.

    It is the name of the parent; where that is the same too, the names from further up down to
    the parent, as far up as it takes and at most eight levels; else the id. Of several parents
    the first that is among the labels counts.

    Memory: 16 bytes a label while it runs; what is returned grows with the labels that share
    names. 1.3 million labels take about two seconds.

    Args:
        places: the position of each label by its id.

    >>> nose, chill = Label("n", "Diseases of the nose"), Label("c", "Exposure")
    >>> colds = [Label("1", "Cold", parents=("n",)), Label("2", "cold", parents=("c",))]
    >>> distinctions([nose, chill, *colds], {"n": 0, "c": 1, "1": 2, "2": 3})
    {2: 'in: Diseases of the nose', 3: 'in: Exposure'}
    """
    families: dict[str, list[int]] = {}
    for position in _of_repeated_hash(labels).tolist():
        families.setdefault(folded(labels[position].name), []).append(position)
    found: dict[int, str] = {}
    for family in families.values():
        if len(family) > 1:
            found |= _told_apart(family, labels, places)
    return dict(sorted(found.items()))


def _of_repeated_hash(labels: Sequence[Label]) -> npt.NDArray[np.int64]:
    """The positions of labels whose names may be another's: a table of all names is far larger."""
    hashes = np.fromiter((hash(folded(label.name)) for label in labels), np.int64, len(labels))
    ordered = np.sort(hashes)
    return np.flatnonzero(np.isin(hashes, ordered[1:][ordered[1:] == ordered[:-1]]))


def _told_apart(
    family: Sequence[int], labels: Sequence[Label], places: Mapping[str, int]
) -> dict[int, str]:
    found: dict[int, str] = {}
    ways = {position: [position] for position in family}
    names: dict[int, tuple[str, ...]] = dict.fromkeys(family, ())
    for _ in range(_MOST_LEVELS):
        for position, way in ways.items():
            for above in _parent(way, labels, places):
                way.append(above)
                names[position] += (folded(labels[above].name),)
        bearers = Counter(names[position] for position in ways)
        for position in [p for p in ways if names[p] and bearers[names[p]] == 1]:
            down = [" ".join(labels[above].name.split()) for above in ways.pop(position)[:0:-1]]
            found[position] = f"in: {' > '.join(down)}"
        if not ways:
            break
    return found | {position: f"id: {labels[position].id}" for position in ways}


def _parent(way: Sequence[int], labels: Sequence[Label], places: Mapping[str, int]) -> list[int]:
    """The next label up, as a list of one; of none where the way ends, or would go in a circle."""
    above = (places.get(parent) for parent in labels[way[-1]].parents)
    return [place for place in above if place is not None and place not in way][:1]
