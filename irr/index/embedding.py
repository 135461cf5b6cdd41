"""Embedding: what a label set's labels are called and what they mean, some thousand at a time.

In: labels and an encoder. Out: unit rows, and the label and the kind of each.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from irr.vectors import Floats, Integers, unit_rows

if TYPE_CHECKING:
    from irr.encoder import Encoder
    from irr.labels import LabelSet

__all__ = [
    "ALTERNATIVE",
    "DESCRIPTION",
    "NAME",
    "Progress",
    "Rows",
    "encode_slabs",
    "rows_of_labels",
]

Progress = Callable[[int, int], None]

# Bounds the memory beside the vectors themselves, and what a killed run has to do again.
SLAB = 16_384


# Kinds of rows.
NAME, ALTERNATIVE, DESCRIPTION = range(3)


class Rows(NamedTuple):
    """What is embedded, a row each: its text, the position of its label, its kind."""

    texts: list[str]
    owners: Integers
    kinds: npt.NDArray[np.int8]


def rows_of_labels(labels: LabelSet) -> Rows:
    """List the name, then the alternative names, then the description of each label.

    A description is written after the name, which it may leave out.
    """
    texts: list[str] = []
    owners, kinds = array("i"), array("b")  # A tenth of the memory of lists.
    for position, label in enumerate(labels):
        own = [label.name, *label.alternative_names]
        own_kinds = [NAME] + [ALTERNATIVE] * len(label.alternative_names)
        if label.description:
            own.append(f"{label.name}: {label.description}")
            own_kinds.append(DESCRIPTION)
        texts += own
        kinds.extend(own_kinds)
        owners.extend([position] * len(own))
    return Rows(texts, np.array(owners, np.int32), np.array(kinds, np.int8))


def encode_slabs(
    texts: Sequence[str], encoder: Encoder, *, first: int = 0, progress: Progress | None = None
) -> Iterator[tuple[slice, Floats]]:
    """Encode the texts from `first` on, some thousand at a time: where they are, and unit rows.

    `progress` is called with (texts encoded so far, the ones before `first` too; texts in all).
    """
    done = first

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, len(texts))

    for start in range(first, len(texts), SLAB):
        slab = slice(start, min(start + SLAB, len(texts)))
        yield slab, unit_rows(encoder.encode(texts[slab], progress=advance))
