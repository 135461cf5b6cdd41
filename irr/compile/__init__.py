"""The command `compile`: a label set and tens of labelled texts → a program that predicts better.

The rooms, in the order of the work: `examples` (documents → what DSPy works with), `modules`
(the stages as DSPy sees them), `tune` (retrieval and fusion, without LM calls of their own),
`search` (DSPy's optimizers, staged), `guard` (scores, and what is returned), `compiler` (all of
it in order), `card` (what was done, for people), `command` (the command line).
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    from irr.compile.command import main as run

    return run(argv)
