"""Extending: labels added to a program, or renamed, without compiling it again.

In: a program directory and a label set. Out: the program with these labels too. Only names and
descriptions that the program has not embedded yet are embedded.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from irr.directory import CARD, load_program, save_program
from irr.encoder import Encoder
from irr.errors import LabelSetError
from irr.index import LabelIndex
from irr.index.embedding import rows_of_labels
from irr.labels import LabelSet
from irr.retrieve import Retriever

__all__ = ["extend_index", "extend_program", "merge_labels"]


def merge_labels(old: LabelSet, added: LabelSet) -> LabelSet:
    """`old` with the labels of `added`: in the place of those with the same id, else at the end.

    Raises:
        LabelSetError: nothing would change.
    """
    by_id = {label.id: label for label in added}
    kept = [by_id.pop(label.id, label) for label in old]
    merged = LabelSet([*kept, *by_id.values()])
    if merged.content_hash == old.content_hash:
        raise LabelSetError("all these labels are in the program already, as they are")
    return merged


def extend_index(index: LabelIndex, old: LabelSet, new: LabelSet, encoder: Encoder) -> LabelIndex:
    """The index of `new`: rows of texts that `old` has are kept, the others are embedded."""
    known = rows_of_labels(old).texts
    places = dict(zip(known, range(len(known)), strict=True))
    wanted = rows_of_labels(new)
    missing = list(dict.fromkeys(text for text in wanted.texts if text not in places))
    vectors = np.concatenate([index.vectors, encoder.encode(missing)])
    places |= dict(zip(missing, range(len(known), len(vectors)), strict=True))
    return LabelIndex(
        vectors[[places[text] for text in wanted.texts]],
        wanted.owners,
        kinds=wanted.kinds,
        label_set=new.content_hash,
        encoder=encoder.fingerprint,
    )


def extend_program(
    folder: Path | str,
    added: LabelSet,
    target: Path | str,
    *,
    device: str = "auto",
    threads: int | None = None,
) -> tuple[int, int]:
    """Write the program in `folder`, with the labels of `added` too, to `target`.

    Returns:
        How many labels are new, and how many were changed.

    Raises:
        LabelSetError: nothing would change.
        IrrError: the program cannot be read, or `target` not be written.
    """
    program = load_program(folder, device=device, threads=threads)
    retriever = program.retriever
    merged = merge_labels(program.labels, added)
    index = extend_index(retriever.index, program.labels, merged, retriever.encoder)
    new = len(merged) - len(program.labels)
    changed = sum(a != b for a, b in zip(program.labels, merged, strict=False))
    priors = retriever.priors
    if priors is not None:
        priors = np.concatenate([priors, np.zeros(new, np.float32)])
    extended = Retriever(retriever.encoder, index, retriever.settings, labels=merged, priors=priors)
    card_file = Path(folder) / CARD
    card = card_file.read_text(encoding="utf-8") if card_file.is_file() else ""
    card += f"\nExtended afterwards: {new:,} labels added, {changed:,} changed.\n"
    extended_program = program.variant(labels=merged, retriever=extended)
    save_program(extended_program, target, card=card, stages_of=folder)
    return new, changed
