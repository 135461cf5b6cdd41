"""Priors: how frequent labels are, from labelled examples or from unlabelled texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from irr.compile.examples import Example
from irr.phrases import phrases
from irr.retrieve import Retriever
from irr.types import Document

__all__ = ["Priors", "priors_from_examples", "priors_from_texts", "without"]

Priors = npt.NDArray[np.float32]

# Of a text without labels, this many of the labels retrieved count as its labels.
_FIRST = 5


def priors_from_examples(examples: Sequence[Example], labels: int) -> Priors:
    """The share of examples that have each label, (labels,) float32 in [0, 1]."""
    counts = np.zeros(labels, np.float32)
    for example in examples:
        counts[list(example.gold)] += 1
    return counts / np.float32(max(1, len(examples)))


def without(priors: Priors, example: Example, count: int) -> Priors:
    """Priors as they would be without one of the `count` examples that they were counted on.

    A document's own labels must not raise the score that the priors are judged by.
    """
    rest = priors * np.float32(count)
    rest[list(example.gold)] -= 1
    shares: Priors = np.maximum(rest, 0) / np.float32(max(1, count - 1))
    return shares


def priors_from_texts(documents: Iterable[Document], retriever: Retriever) -> Priors:
    """The share of texts among whose first five retrieved labels each label is."""
    counts = np.zeros(len(retriever.index), np.float32)
    texts = 0
    for document in documents:
        found = retriever.retrieve(phrases(document.text))
        counts[[candidate.position for candidate in found[:_FIRST]]] += 1
        texts += 1
    return counts / np.float32(max(1, texts))
