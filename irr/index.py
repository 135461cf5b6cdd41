"""`LabelIndex`: the vectors of a label set, searched exactly by one matrix product.

In: a label set and an encoder, or vectors. Out: the cosine of each query with each label, and how
much of a hub each label is. A label may have several names and so several rows; its score is that
of its best row. Built once, an index is kept on disk as .npy files beside a JSON header, and is
mapped into memory when it is loaded.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from irr.cache import atomic_directory, cache_root, discard, file_digests, warn_unwritable
from irr.errors import ConfigurationError, EncoderError, InputError, OutputError
from irr.vectors import (
    BLOCK,
    MOST_COMPARED,
    NEIGHBOURS,
    Floats,
    Integers,
    cosines,
    first_rows,
    label_hubs,
    pool_rows,
    top_k,
    unit_rows,
)

if TYPE_CHECKING:
    from irr.encoder import Encoder
    from irr.labels import LabelSet

__all__ = ["LabelIndex", "open_index"]

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

VERSION = 1
HEADER = "index.json"
ARRAYS = ("vectors", "owners", "hubs")


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
        self._starts = first_rows(self.owners, rows)
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
        """Encode the name, then the alternative names of each label.

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
        """Compare each query with the nearest row of each label.

        Args:
            queries: (q, d) finite floats of any length.

        Returns:
            (q, labels) float32 cosines, in [-1, 1] but for rounding.

        Raises:
            EncoderError: queries are not finite or of other dimensions.
        """
        units = unit_rows(queries)
        if units.shape[1] != self.dimensions:
            message = f"queries have {units.shape[1]} dimensions, the index {self.dimensions}"
            raise EncoderError(f"{message}: use the encoder that the index was built with")
        return pool_rows(cosines(units, self.vectors), self._starts, axis=1)

    def search(self, queries: npt.ArrayLike, k: int) -> tuple[npt.NDArray[np.int64], Floats]:
        """Find the k best labels of each query, best first, of equals the lower position first.

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
        """Write the index into `folder`, its header last.

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
        """Read what `save` wrote.

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
        index._starts = first_rows(index.owners, rows)
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
    """Open the index of a label set: from the user's cache where it is there, else built and kept.

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
