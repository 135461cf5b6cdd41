"""The index of a label set: its vectors, compared with queries, on disk and in the user's cache.

In: labels and an encoder. Out: which labels are near queries, and how near. `LabelIndex` compares
with all labels, or, where they are very many, with a shortlist (`ann`); `open_index` finds it in
the cache or makes it (`opening`).
"""

from irr.index.label_index import LabelIndex
from irr.index.opening import open_index

__all__ = ["LabelIndex", "open_index"]
