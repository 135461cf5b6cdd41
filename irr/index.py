"""`LabelIndex`: the vectors of a label set, searched exactly by one matrix product.

Comes in: the names of labels and an encoder, or vectors. Goes out: the cosine of each query with
each label, and how much of a hub each label is. A label may have several names and so several
rows; its score is that of its best row. Built once, an index is kept on disk as .npy files
beside a JSON header, mapped into memory when it is loaded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from irr.cache import atomic_directory, cache_root, discard, file_digests, warn_unwritable
from irr.errors import ConfigurationError, EncoderError, InputError, OutputError

if TYPE_CHECKING:
    from irr.encoder import Encoder
    from irr.labels import LabelSet

__all__ = ["LabelIndex", "label_hubs", "mean_of_highest", "open_index", "top_k", "unit_rows"]

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int32]
Progress = Callable[[int, int], None]

VERSION = 1
HEADER = "index.json"
ARRAYS = ("vectors", "owners", "hubs")
NEIGHBOURS = 10
# Above this many labels hubs are estimated: comparing all pairs would take hours.
MOST_COMPARED = 100_000
# Floats in one block of scores: 64 MB.
BLOCK = 1 << 24
FOLDS = 32


class LabelIndex:
    """The vectors of a label set.

    Args:
        vectors: (rows, d) finite floats of any length, kept as float32 unit rows; a zero row
            stays zero, its cosine with everything is 0.
        owners: (rows,) integers, not decreasing: the position of each row's label, 0 to
            labels - 1 without a gap. None for one row a label.
        hubs: (labels,) float32, see `label_hubs`; None to compute them.
        label_set, encoder: content hash and fingerprint of what the vectors were made from.

    Raises:
        EncoderError: vectors are not a finite matrix with a row or more.
        ConfigurationError: owners or hubs do not fit the vectors.
    """

    vectors: Floats
    owners: Integers
    hubs: Floats

    def __init__(
        self,
        vectors: npt.ArrayLike,
        owners: npt.ArrayLike | None = None,
        *,
        hubs: npt.ArrayLike | None = None,
        label_set: str = "",
        encoder: str = "",
    ) -> None:
        self.vectors = unit_rows(vectors)
        rows = len(self.vectors)
        if not rows:
            raise EncoderError("an index needs at least one vector")
        self.owners = np.asarray(np.arange(rows) if owners is None else owners, dtype=np.int32)
        self._starts = _starts(self.owners, rows)
        self.label_set = label_set
        self.encoder = encoder
        if hubs is None:
            hubs = label_hubs(self.vectors, self.owners)
        self.hubs = np.asarray(hubs, dtype=np.float32)
        if self.hubs.shape != (len(self),) or not np.isfinite(self.hubs).all():
            raise ConfigurationError(f"hubs must be {len(self)} finite numbers, one a label")

    @classmethod
    def build(
        cls, labels: LabelSet, encoder: Encoder, *, progress: Progress | None = None
    ) -> LabelIndex:
        """Encodes the name, then the alternative names of each label.

        `progress` is called with (names encoded so far, names in all).
        """
        names = [(label.name, *label.alternative_names) for label in labels]
        owners = [position for position, texts in enumerate(names) for _ in texts]
        texts = [text for texts in names for text in texts]
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if progress:
                progress(done, len(texts))

        vectors = encoder.encode(texts, progress=advance)
        return cls(vectors, owners, label_set=labels.content_hash, encoder=encoder.fingerprint)

    def __len__(self) -> int:
        """The number of labels."""
        return len(self._starts)

    @property
    def dimensions(self) -> int:
        """The length of a vector."""
        return int(self.vectors.shape[1])

    def scores(self, queries: npt.ArrayLike) -> Floats:
        """The cosine of each query with the nearest row of each label.

        Args:
            queries: (q, d) finite floats of any length.

        Returns:
            (q, labels) float32 in [-1, 1] but for rounding.

        Raises:
            EncoderError: queries are not finite or of other dimensions.
        """
        units = unit_rows(queries)
        if units.shape[1] != self.dimensions:
            message = f"queries have {units.shape[1]} dimensions, the index {self.dimensions}"
            raise EncoderError(f"{message}: use the encoder that the index was built with")
        scores: Floats = units @ self.vectors.T
        return _pool(scores, self._starts, axis=1)

    def search(self, queries: npt.ArrayLike, k: int) -> tuple[npt.NDArray[np.int64], Floats]:
        """The k best labels of each query, best first, of equal scores the lower position first.

        Returns:
            (q, min(k, labels)) positions int64 and scores float32.
        """
        units = unit_rows(queries)
        k = min(k, len(self))
        positions = np.empty((len(units), k), np.int64)
        best = np.empty((len(units), k), np.float32)
        step = max(1, BLOCK // len(self.vectors))
        for start in range(0, len(units), step):
            for row, scores in enumerate(self.scores(units[start : start + step]), start=start):
                positions[row] = top_k(scores, k)
                best[row] = scores[positions[row]]
        return positions, best

    def save(self, folder: str | Path) -> None:
        """Writes the index into `folder`, its header last.

        Raises:
            OutputError: the files cannot be written.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / HEADER).unlink(missing_ok=True)
            for name in ARRAYS:
                np.save(folder / f"{name}.npy", getattr(self, name), allow_pickle=False)
            header = {"format": "irr index", "version": VERSION, "label_set": self.label_set}
            header |= {"encoder": self.encoder, "labels": len(self), "rows": len(self.owners)}
            header |= {"dimensions": self.dimensions, "sha256": _digests(folder)}
            (folder / HEADER).write_text(json.dumps(header, indent=2) + "\n", encoding="utf-8")
        except OSError as exc:
            raise OutputError(f"{folder}: cannot be written: {exc.strerror or exc}") from exc

    @classmethod
    def load(cls, folder: str | Path, *, mmap: bool = True, verify: bool = True) -> LabelIndex:
        """Reads what `save` wrote.

        Args:
            mmap: map the vectors into memory, read-only, instead of reading them.
            verify: compare the files' hashes with the header's.

        Raises:
            InputError: a file is missing, damaged, or of another version; names it.
        """
        folder = Path(folder)
        header = _read_header(folder / HEADER)
        if verify and _digests(folder) != header["sha256"]:
            raise InputError("the files beside it have changed since: build again", path=folder)
        rows, labels = header["rows"], header["labels"]
        index = cls.__new__(cls)  # What `save` wrote has been checked and normalised before.
        index.label_set, index.encoder = header["label_set"], header["encoder"]
        shape = (rows, header["dimensions"])
        index.vectors = _read_array(folder / "vectors.npy", np.float32, shape, mmap)
        index.owners = _read_array(folder / "owners.npy", np.int32, (rows,), False)
        index.hubs = _read_array(folder / "hubs.npy", np.float32, (labels,), False)
        index._starts = _starts(index.owners, rows)
        if len(index) != labels:
            raise InputError(f"holds {len(index)} labels, not {labels}: build again", path=folder)
        return index


def open_index(
    labels: LabelSet,
    encoder: Encoder,
    *,
    cache: bool = True,
    progress: Progress | None = None,
) -> LabelIndex:
    """The index of a label set, from the user's cache where it is there, else built and kept.

    The place in the cache names the content of the labels and of the encoder: a change of
    either gives another index. A damaged entry is replaced, with a warning.
    """
    if not cache:
        return LabelIndex.build(labels, encoder, progress=progress)
    made_of = (labels.content_hash, encoder.fingerprint, VERSION, NEIGHBOURS, MOST_COMPARED)
    key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
    folder = cache_root() / "indexes" / key
    if folder.is_dir():
        try:
            return LabelIndex.load(folder, verify=False)
        except InputError as exc:
            logger.warning("%s; it is built again", exc)
            discard(folder)
    index = LabelIndex.build(labels, encoder, progress=progress)
    try:
        with atomic_directory(folder) as draft:
            index.save(draft)
    except OutputError as exc:
        logger.warning("the index is not cached: %s", exc)
    except OSError as exc:
        warn_unwritable(exc)
    return index


def unit_rows(vectors: npt.ArrayLike) -> Floats:
    """(n, d) float32 rows of length 1, zero rows left as they are.

    Raises:
        EncoderError: not a matrix of finite numbers.
    """
    matrix = np.asarray(vectors)
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
        raise EncoderError(f"expected a matrix of numbers, got {matrix.dtype} {matrix.shape}")
    # In float64 neither the square of 1e30 nor that of 1e-30 is lost.
    lengths = np.sqrt(np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64))
    if not np.isfinite(lengths).all():
        row = int(np.flatnonzero(~np.isfinite(lengths))[0])
        raise EncoderError(f"the vector of row {row} is not finite")
    lengths[lengths == 0] = 1
    units: Floats = (matrix / lengths[:, None]).astype(np.float32)
    return units


def top_k(scores: npt.NDArray[Any], k: int) -> npt.NDArray[np.int64]:
    """Positions of the k highest of (n,) scores, best first, of equals the lower position first.

    >>> top_k(np.array([0.1, 0.9, 0.5, 0.9, 0.5]), 3).tolist()
    [1, 3, 2]
    """
    n = len(scores)
    if not 0 < k < n:
        if k < 1:
            raise ConfigurationError(f"k must be 1 or more, not {k}")
        return np.argsort(-scores, kind="stable")
    limit = np.partition(scores, n - k)[n - k]
    above = np.flatnonzero(scores > limit)
    level = np.flatnonzero(scores == limit)[: k - len(above)]
    chosen = np.sort(np.concatenate([above, level]))
    return chosen[np.argsort(-scores[chosen], kind="stable")]


def mean_of_highest(scores: Floats, k: int) -> Floats:
    """The mean of the k highest scores of each row, of all where there are fewer.

    >>> print(mean_of_highest(np.array([[0.5, 0.1, 0.4], [0.3, 0.3, 0.3]], np.float32), 2))
    [0.45 0.3 ]

    Args:
        scores: (q, n) with n at least 1.

    Returns:
        (q,) float32.
    """
    rows, n = scores.shape
    width = n // FOLDS
    if width > k:
        # The k highest lie in the k columns of the folded rows whose maxima are highest: that
        # leaves a fraction to be partitioned, and is several times quicker.
        folded = scores[:, : width * FOLDS].reshape(rows, FOLDS, width)
        columns = np.argpartition(folded.max(axis=1), width - k, axis=1)[:, None, width - k :]
        chosen = np.take_along_axis(folded, columns, axis=2).reshape(rows, -1)
        scores = np.concatenate([chosen, scores[:, width * FOLDS :]], axis=1)
    k = min(k, n)
    mean: Floats = np.partition(scores, scores.shape[1] - k, axis=1)[:, -k:].mean(axis=1)
    return mean


def label_hubs(
    vectors: Floats, owners: Integers, *, neighbours: int = NEIGHBOURS, most: int = MOST_COMPARED
) -> Floats:
    """How much of a hub each label is: its mean cosine with its nearest other labels.

    A label in a crowd is near to many queries; taking off a part of this mean gives labels in
    the open their turn (cf. cross-domain similarity local scaling, Conneau et al. 2018, arXiv
    1710.04087).

    Args:
        vectors: (rows, d) float32 unit rows. The cosine of two labels is that of their nearest
            rows.
        owners: (rows,) int32, not decreasing.
        neighbours: how many labels are averaged, all others where there are fewer.
        most: with more labels than this, the neighbours are sought in a fixed sample of `most`
            labels, and proportionally fewer of them, at least one, are averaged.

    Returns:
        (labels,) float32; zero for a label alone.
    """
    starts = _starts(owners, len(vectors))
    labels = len(starts)
    others = np.arange(labels)
    if labels > most:
        others = np.sort(np.random.default_rng(0).choice(labels, most, replace=False))
    k = min(max(1, round(neighbours * len(others) / labels)), len(others) - 1)
    hubs = np.zeros(labels, np.float32)
    if k < 1:
        return hubs
    ends = np.append(starts, len(vectors))
    rows = vectors if len(others) == labels else vectors[np.isin(owners, others)]
    columns = np.concatenate([[0], np.cumsum(np.diff(ends)[others])[:-1]])

    def fill(first: int) -> None:
        last = min(first + step, labels)
        block = vectors[ends[first] : ends[last]] @ rows.T
        block = _pool(_pool(block, columns, axis=1), starts[first:last] - ends[first], axis=0)
        own = np.searchsorted(others, np.arange(first, last))
        among = np.isin(np.arange(first, last), others)
        block[np.flatnonzero(among), own[among]] = -np.inf
        hubs[first:last] = mean_of_highest(block, k)

    step = max(1, min(256, BLOCK // len(rows)))
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        list(pool.map(fill, range(0, labels, step)))
    return hubs


def _pool(scores: Floats, starts: npt.NDArray[Any], axis: int) -> Floats:
    """The maximum over each label's rows; the scores themselves where each label has one."""
    if len(starts) == scores.shape[axis]:
        return scores
    pooled: Floats = np.maximum.reduceat(scores, starts, axis=axis)
    return pooled


def _starts(owners: Integers, rows: int) -> npt.NDArray[np.int64]:
    """The first row of each label."""
    if owners.shape != (rows,) or owners[0] != 0 or not np.isin(np.diff(owners), (0, 1)).all():
        message = "owners must be one position a row, from 0 without a gap, not decreasing"
        raise ConfigurationError(message)
    return np.flatnonzero(np.diff(owners, prepend=-1))


def _digests(folder: Path) -> dict[str, str]:
    try:
        return file_digests(folder, [f"{name}.npy" for name in ARRAYS])
    except OSError as exc:
        raise InputError(f"cannot be read: {exc.strerror or exc}", path=folder) from exc


def _read_header(path: Path) -> dict[str, Any]:
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise InputError(f"cannot be read: {exc.strerror or exc}", path=path) from exc
    except ValueError as exc:
        raise InputError(f"is not the header of an index: {exc}", path=path) from exc
    if not isinstance(header, dict) or header.get("format") != "irr index":
        raise InputError("is not the header of an index", path=path)
    if header.get("version") != VERSION:
        message = f"is of version {header.get('version')}, not {VERSION}: build the index again"
        raise InputError(message, path=path)
    kinds = {"label_set": str, "encoder": str, "labels": int, "rows": int, "dimensions": int}
    for key, kind in (kinds | {"sha256": dict}).items():
        if not isinstance(header.get(key), kind):
            raise InputError(f"lacks {key!r}: build the index again", path=path)
    return header


def _read_array(
    path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...], mmap: bool
) -> npt.NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as exc:
        raise InputError(f"cannot be read: {exc}: build the index again", path=path) from exc
    if array.dtype != dtype or array.shape != shape:
        message = f"holds {array.dtype} {array.shape}, not {np.dtype(dtype)} {shape}"
        raise InputError(f"{message}: build the index again", path=path)
    return np.asarray(array)
