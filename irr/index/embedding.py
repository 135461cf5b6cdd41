"""Embedding: the names of a label set, some thousand at a time.

In: labels and an encoder. Out: unit rows, and the label of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from irr.vectors import Floats, Integers, unit_rows

if TYPE_CHECKING:
    from irr.encoder import Encoder
    from irr.labels import LabelSet

__all__ = ["Progress", "encode_slabs", "names_of"]

Progress = Callable[[int, int], None]

# Bounds the memory beside the vectors themselves, and what a killed run has to do again.
SLAB = 16_384


def names_of(labels: LabelSet) -> tuple[list[str], Integers]:
    """List the name, then the alternative names of each label; and each one's label."""
    texts = [text for label in labels for text in (label.name, *label.alternative_names)]
    counts = [1 + len(label.alternative_names) for label in labels]
    return texts, np.repeat(np.arange(len(counts), dtype=np.int32), counts)


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
