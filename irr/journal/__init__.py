"""The journal of a run: output that outlives kills, full disks and power cuts, and is continued.

In: predictions in the order of the documents. Out: their file, and beside it what the run was.
`journal` is the run itself, `opening` what it finds, `checking` compares the documents with those
the rows are of, `paths` its files and their lock, `state` FILE.run.json, `rows` reads and heals
rows, `publish` makes the finished file.
"""

from irr.journal.journal import Journal
from irr.journal.paths import is_journaled

__all__ = ["Journal", "is_journaled"]
