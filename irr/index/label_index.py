"""`LabelIndex`: the vectors of a label set, and their cosines with queries.

In: a label set and an encoder, or vectors. Out: the cosine of each query with each label, and how
much of a hub each label is. A label has a row for each of its names and for its description; its
score is that of its best row. Up to some hundred thousand rows every row is compared, by one
matrix product; above, those of a shortlist (`irr.index.ann`), whose cosines are just as exact.
Built once, an index is kept on disk as .npy files beside a JSON header, and is mapped into memory
when it is loaded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from irr.errors import ConfigurationError, EncoderError, InputError, OutputError
from irr.index.embedding import (
    ALTERNATIVE,
    DESCRIPTION,
    NAME,
    Progress,
    encode_slabs,
    rows_of_labels,
)
from irr.index.files import CELLS, HEADER, VECTORS, VERSION, digests, read_array, read_header
from irr.vectors import (
    BLOCK,
    Floats,
    Integers,
    Positions,
    cosines,
    first_rows,
    label_hubs,
    near_hubs,
    pool_rows,
    rows_of,
    top_k,
    unit_rows,
)

if TYPE_CHECKING:
    from irr.encoder import Encoder
    from irr.index.ann import Shortlist
    from irr.labels import LabelSet

__all__ = ["APPROXIMATE_FROM", "LabelIndex"]

Kinds: TypeAlias = npt.NDArray[np.int8]
KINDS = (NAME, ALTERNATIVE, DESCRIPTION)

# Rows from which a text of ten or forty queries takes a third of the time of an exact search or
# less: half at 50,000 rows, a fifth at 200,000, a twenty-fifth at 1,300,000 (eval/bench/index.py).
APPROXIMATE_FROM = 100_000
# A shortlist of a larger part of the labels than this would be slower than comparing all.
_LARGE_PART = 16


class LabelIndex:
    """The vectors of a label set.

    Args:
        vectors: (rows, d) finite floats of any length, kept as float32 unit rows; a zero row
            stays zero, its cosine with everything is 0.
        owners: (rows,) integers, not decreasing: the position of each row's label, 0 to
            labels - 1 without a gap. None for one row a label.
        kinds: (rows,) int8, `NAME`, `ALTERNATIVE` or `DESCRIPTION`; None for a name and then
            alternative names of each label.
        hubs: (labels,) float32, see `label_hubs`; None to compute them.
        approximate: search by a shortlist; None to decide by the number of rows.
        label_set, encoder: content hash and fingerprint of what the vectors were made from.

    Raises:
        EncoderError: vectors are not a finite matrix with a row or more.
        ConfigurationError: owners, kinds or hubs do not fit the vectors; or they are too few for
            an approximate index.
    """

    vectors: Floats
    owners: Integers
    kinds: Kinds
    hubs: Floats
    label_set: str
    encoder: str
    shortlist: Shortlist | None

    def __init__(
        self,
        vectors: npt.ArrayLike,
        owners: npt.ArrayLike | None = None,
        *,
        kinds: npt.ArrayLike | None = None,
        hubs: npt.ArrayLike | None = None,
        label_set: str = "",
        encoder: str = "",
        approximate: bool | None = None,
    ) -> None:
        units = unit_rows(vectors)
        rows = len(units)
        if not rows:
            raise EncoderError("an index needs at least one vector")
        each = np.arange(rows) if owners is None else owners
        self._take(units, each, kinds, hubs, label_set, encoder, approximate)

    @classmethod
    def of_units(
        cls,
        vectors: Floats,
        owners: npt.ArrayLike,
        *,
        kinds: npt.ArrayLike | None = None,
        hubs: npt.ArrayLike | None = None,
        label_set: str = "",
        encoder: str = "",
        approximate: bool | None = None,
        threads: int | None = None,
    ) -> LabelIndex:
        """Make the index of unit rows, which are used as they are: they may be mapped from a file.

        Args:
            threads: CPU threads for an approximate index; None for all this process may use.
        """
        index = cls.__new__(cls)
        index._take(vectors, owners, kinds, hubs, label_set, encoder, approximate, threads)
        return index

    def _take(
        self,
        units: Floats,
        owners: npt.ArrayLike,
        kinds: npt.ArrayLike | None,
        hubs: npt.ArrayLike | None,
        label_set: str,
        encoder: str,
        approximate: bool | None,
        threads: int | None = None,
    ) -> None:
        self.vectors = units
        self.label_set, self.encoder = label_set, encoder
        self.owners = np.asarray(owners, dtype=np.int32)
        self._starts = first_rows(self.owners, len(units))
        self.kinds = self._kinds(kinds)
        self.shortlist = None
        if len(units) >= APPROXIMATE_FROM if approximate is None else approximate:
            from irr.index.ann import Shortlist  # It needs a library that is slow to import.

            self.shortlist = Shortlist.build(units, threads=threads)
        if hubs is None:
            hubs = self._measure_hubs(threads)
        self.hubs = np.asarray(hubs, dtype=np.float32)
        if self.hubs.shape != (len(self),) or not np.isfinite(self.hubs).all():
            raise ConfigurationError(f"hubs must be {len(self)} finite numbers, one a label")

    def _kinds(self, kinds: npt.ArrayLike | None) -> Kinds:
        if kinds is None:
            all_but_first = np.full(len(self.owners), ALTERNATIVE, np.int8)
            all_but_first[self._starts] = NAME
            return all_but_first
        array = np.asarray(kinds, np.int8)
        if array.shape != self.owners.shape or not np.isin(array, KINDS).all():
            raise ConfigurationError(f"kinds must be {len(self.owners)} of {KINDS}, one a row")
        return array

    def _measure_hubs(self, threads: int | None) -> Floats:
        shortlist = self.shortlist
        if shortlist is None:
            return label_hubs(self.vectors, self.owners)

        def near(rows: Floats, count: int) -> Positions:
            return shortlist.near_rows(rows, count, threads=threads)

        return near_hubs(self.vectors, self.owners, near)

    @classmethod
    def build(
        cls,
        labels: LabelSet,
        encoder: Encoder,
        *,
        approximate: bool | None = None,
        progress: Progress | None = None,
    ) -> LabelIndex:
        """Encode the names and the description of each label.

        `progress` is called with (texts encoded so far, texts in all).
        """
        texts, owners, kinds = rows_of_labels(labels)
        vectors = np.empty((len(texts), encoder.dimensions), np.float32)
        for slab, rows in encode_slabs(texts, encoder, progress=progress):
            vectors[slab] = rows
        return cls.of_units(
            vectors,
            owners,
            kinds=kinds,
            label_set=labels.content_hash,
            encoder=encoder.fingerprint,
            approximate=approximate,
        )

    def __len__(self) -> int:
        """The number of labels."""
        return len(self._starts)

    @property
    def dimensions(self) -> int:
        """The length of a vector."""
        return int(self.vectors.shape[1])

    @property
    def approximate(self) -> bool:
        """Whether queries are compared with a shortlist instead of all labels."""
        return self.shortlist is not None

    def scores(self, queries: npt.ArrayLike, handicaps: Floats | None = None) -> Floats:
        """Compare each query with the nearest row of each label, of all labels.

        Args:
            queries: (q, d) finite floats of any length.
            handicaps: (rows,) what is taken off the cosines of each row before the best counts,
                see `handicaps_of`; None for nothing.

        Returns:
            (q, labels) float32 cosines, in [-1, 1] but for rounding.

        Raises:
            EncoderError: queries are not finite or of other dimensions.
        """
        found = cosines(self._units(queries), self.vectors)
        if handicaps is not None:
            found -= handicaps
        return pool_rows(found, self._starts, axis=1)

    def handicaps_of(self, alternative: float, description: float) -> Floats | None:
        """What is taken off each row's cosines: 0 of names, so much of the others; None for 0."""
        each = np.zeros(len(KINDS), np.float32)
        each[[ALTERNATIVE, DESCRIPTION]] = alternative, description
        taken: Floats = each[self.kinds]
        return taken if taken.any() else None

    def near(
        self,
        queries: npt.ArrayLike,
        least: int,
        handicaps: Floats | None = None,
        also: Positions | None = None,
    ) -> tuple[Positions, Floats]:
        """Compare the queries of one text with the labels that may be near them.

        Those are all labels; of an approximate index the owners of its shortlist, or all where
        these are fewer than `least`.

        Args:
            queries, handicaps: as for `scores`, one query at least.
            least: how many labels are wanted.
            also: positions of labels that are to be among them.

        Returns:
            (n,) int64 positions, ascending, and (q, n) float32 cosines.
        """
        units = self._units(queries)
        if self.shortlist is not None and least < len(self) // _LARGE_PART:
            rows = self.shortlist.near_queries(units, least)
            positions = np.unique(self.owners[rows]).astype(np.int64)
            if also is not None:
                positions = np.union1d(positions, also)
            if len(positions) >= least:
                chosen, firsts = rows_of(positions, self._starts, len(self.owners))
                found = cosines(units, self.vectors[chosen])
                if handicaps is not None:
                    found -= handicaps[chosen]
                return positions, pool_rows(found, firsts, axis=1)
        return np.arange(len(self)), self.scores(units, handicaps)

    def search(self, queries: npt.ArrayLike, k: int) -> tuple[Positions, Floats]:
        """Find the k best labels of each query, best first, of equals the lower position first.

        Returns:
            (q, min(k, labels)) positions int64 and scores float32.
        """
        units = unit_rows(queries)
        k = min(k, len(self))
        found = np.empty((len(units), k), np.int64)
        best = np.empty((len(units), k), np.float32)
        # What is shortlisted for a query must not depend on the others.
        step = 1 if self.approximate else max(1, BLOCK // len(self.vectors))
        for start in range(0, len(units), step):
            positions, scores = self.near(units[start : start + step], k)
            for row, of_query in enumerate(scores, start=start):
                places = top_k(of_query, k)
                found[row], best[row] = positions[places], of_query[places]
        return found, best

    def _units(self, queries: npt.ArrayLike) -> Floats:
        units = unit_rows(queries)
        if units.shape[1] != self.dimensions:
            message = f"queries have {units.shape[1]} dimensions, the index {self.dimensions}"
            raise EncoderError(f"{message}: use the encoder that the index was built with")
        return units

    def save(self, folder: str | Path) -> None:
        """Write the index into `folder`, its header last.

        Raises:
            OutputError: the files cannot be written.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / HEADER).unlink(missing_ok=True)
            np.save(folder / VECTORS, self.vectors, allow_pickle=False)
        except OSError as exc:
            raise OutputError(f"{folder}: cannot be written: {exc.strerror or exc}") from exc
        self.save_beside_vectors(folder)

    def save_beside_vectors(self, folder: Path) -> None:
        """Do as `save`, where ``vectors.npy`` is in `folder` already.

        Raises:
            OutputError: the files cannot be written.
        """
        try:
            np.save(folder / "owners.npy", self.owners, allow_pickle=False)
            np.save(folder / "kinds.npy", self.kinds, allow_pickle=False)
            np.save(folder / "hubs.npy", self.hubs, allow_pickle=False)
            (folder / CELLS).unlink(missing_ok=True)
            if self.shortlist is not None:
                self.shortlist.write(folder / CELLS)
            header = {"format": "irr index", "version": VERSION, "label_set": self.label_set}
            header |= {"encoder": self.encoder, "labels": len(self), "rows": len(self.owners)}
            hashes = digests(folder, approximate=self.approximate)
            header |= {"dimensions": self.dimensions, "sha256": hashes}
            (folder / HEADER).write_text(json.dumps(header, indent=2) + "\n", encoding="utf-8")
        except OSError as exc:
            raise OutputError(f"{folder}: cannot be written: {exc.strerror or exc}") from exc

    @classmethod
    def load(cls, folder: str | Path, *, mmap: bool = True, verify: bool = True) -> LabelIndex:
        """Read what `save` wrote.

        Args:
            mmap: map the vectors into memory, read-only, instead of reading them.
            verify: compare the files' hashes with the header's.

        Raises:
            InputError: a file is missing, damaged, or of another version; names it.
        """
        folder = Path(folder)
        header = read_header(folder / HEADER)
        approximate = CELLS in header["sha256"]
        if verify and digests(folder, approximate=approximate) != header["sha256"]:
            raise InputError("the files beside it have changed since: build again", path=folder)
        rows, labels = header["rows"], header["labels"]
        index = cls.__new__(cls)  # What `save` wrote has been checked and normalised before.
        index.label_set, index.encoder = header["label_set"], header["encoder"]
        shape = (rows, header["dimensions"])
        index.vectors = read_array(folder / VECTORS, np.float32, shape, mmap)
        index.owners = read_array(folder / "owners.npy", np.int32, (rows,), False)
        index.kinds = read_array(folder / "kinds.npy", np.int8, (rows,), False)
        index.hubs = read_array(folder / "hubs.npy", np.float32, (labels,), False)
        index._starts = first_rows(index.owners, rows)
        if len(index) != labels:
            raise InputError(f"holds {len(index)} labels, not {labels}: build again", path=folder)
        index.shortlist = None
        if approximate:
            from irr.index.ann import Shortlist

            index.shortlist = Shortlist.read(folder / CELLS, shape)
        return index
