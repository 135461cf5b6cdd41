"""The command `evaluate`: documents with known labels → how well programs find them, and where not.

The rooms, in the order of the work: `tasks` (evaluation tasks as files), `predictions` (of any
origin), `scoring` (predictions and gold → scores and stages), `report` (one dictionary), `page` and
`plots` (HTML), `running` (all evaluations of a command), `output` (folder, table, exit status),
`command` (the command line).
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    from irr.evaluate.command import main as run

    return run(argv)
