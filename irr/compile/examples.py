"""Examples: labelled documents → a training part, a part to score on, and DSPy's examples."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from irr.errors import ConfigurationError, DocumentError
from irr.labels import LabelSet
from irr.phrases import Phrases, phrases
from irr.types import Document

__all__ = ["Example", "Split", "read_examples", "split_examples"]


@dataclass(frozen=True, slots=True)
class Example:
    """A labelled document: its gold labels as positions, and its own phrases."""

    document: Document
    gold: tuple[int, ...]
    phrases: Phrases


@dataclass(frozen=True, slots=True)
class Split:
    """`train` gives demonstrations and tunes retrieval; programs are scored on `dev`."""

    train: list[Example]
    dev: list[Example]


def read_examples(
    documents: Sequence[Document], labels: LabelSet, unknown: dict[str, int]
) -> list[Example]:
    """Look up the gold labels. Those that are not in the label set are counted in `unknown`.

    Documents without any known gold label are left out: nothing can be learnt from them here.
    """
    examples = []
    for document in documents:
        positions: dict[int, None] = {}
        for name in document.gold or ():
            position = labels.find(name)
            if position is None:
                unknown[name] = unknown.get(name, 0) + 1
            else:
                positions[position] = None
        if positions and document.text.strip():
            examples.append(Example(document, tuple(positions), phrases(document.text)))
    return examples


def split_examples(train: Sequence[Example], dev: Sequence[Example], *, seed: int) -> Split:
    """Use `dev` as it is; where it is empty, half of the examples, drawn by `seed`.

    Raises:
        DocumentError: fewer than four examples, or fewer than two on one side.
        ConfigurationError: a document stands on both sides, which would flatter every score.
    """
    if dev:
        both = {e.document.text for e in train} & {e.document.text for e in dev}
        if both:
            some = next(iter(both))
            raise ConfigurationError(
                f"{len(both)} texts are in --train and in --dev, such as {some[:60]!r}: "
                "programs must be scored on other texts than they learn from"
            )
        split = Split(list(train), list(dev))
    else:
        shuffled = list(train)
        random.Random(seed).shuffle(shuffled)
        half = len(shuffled) // 2
        split = Split(shuffled[:half], shuffled[half:])
    if min(len(split.train), len(split.dev)) < 2:
        raise DocumentError(
            f"{len(train)} usable training and {len(dev)} dev examples are too few: "
            "give at least four labelled texts, ten or more for a real gain"
        )
    return split
