"""Examples: labelled documents → a training part, a part to score on, and DSPy's examples."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from irr.errors import ConfigurationError, DocumentError
from irr.labels import LabelSet
from irr.phrases import Phrases, phrases
from irr.types import Document

__all__ = ["Example", "Split", "read_examples", "same_text", "split_examples"]


@dataclass(frozen=True, slots=True)
class Example:
    """A labelled document: its gold labels as positions, and its own phrases."""

    document: Document
    gold: tuple[int, ...]
    phrases: Phrases


@dataclass(frozen=True, slots=True)
class Split:
    """Which examples do what. No text is in both parts.

    Args:
        train: give demonstrations, and tune retrieval and fusion.
        dev: programs are scored on them.
    """

    train: list[Example]
    dev: list[Example]


def read_examples(
    documents: Sequence[Document], labels: LabelSet, unknown: dict[str, int]
) -> list[Example]:
    """Look up the gold labels. Those that are not in the label set are counted in `unknown`.

    Documents without any known gold label are left out: nothing can be learnt from them here. Of
    documents with the same text but for case and white space, the first is kept. A name that
    several labels have stands for the first of them.
    """
    examples: dict[str, Example] = {}
    for document in documents:
        positions: dict[int, None] = {}
        for name in document.gold or ():
            found = labels.find_all(name)
            if found:
                positions[found[0]] = None
            else:
                unknown[name] = unknown.get(name, 0) + 1
        if positions and document.text.strip():
            example = Example(document, tuple(positions), phrases(document.text))
            examples.setdefault(same_text(document.text), example)
    return list(examples.values())


def same_text(text: str) -> str:
    """What two texts have in common that are the same but for case and white space."""
    return " ".join(text.split()).casefold()


def split_examples(train: Sequence[Example], dev: Sequence[Example], *, seed: int) -> Split:
    """Use `dev` as it is; where it is empty, half of the examples, drawn by `seed`.

    Raises:
        DocumentError: fewer than four examples, or fewer than two on one side.
        ConfigurationError: a text stands on both sides, which would flatter every score.
    """
    shuffled = list(train)
    random.Random(seed).shuffle(shuffled)
    if dev:
        _refuse_shared(train, dev)
        rest, held = shuffled, list(dev)
    else:
        half = len(shuffled) // 2
        rest, held = shuffled[:half], shuffled[half:]
    if min(len(rest), len(held)) < 2:
        raise DocumentError(
            f"{len(train)} usable training and {len(dev)} dev examples are too few: "
            "give at least four labelled texts, ten or more for a real gain"
        )
    return Split(rest, held)


def _refuse_shared(train: Sequence[Example], dev: Sequence[Example]) -> None:
    texts = {same_text(example.document.text) for example in train}
    both = [e.document.text for e in dev if same_text(e.document.text) in texts]
    if both:
        raise ConfigurationError(
            f"{len(both)} texts are in --train and in --dev, such as {both[0][:60]!r}: "
            "programs must be scored on other texts than they learn from"
        )
