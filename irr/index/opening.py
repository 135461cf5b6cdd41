"""Opening: the index of a label set from the user's cache, made there where it is missing.

In: a label set and an encoder. Out: their `LabelIndex`. Millions of names take long to embed, so
that is done a slab at a time into a folder beside the entry's place: a run that is killed goes on
with the slab it was at. The entry takes its name when it is whole. One process embeds a label set
at a time, and the others wait for it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from irr.cache import (
    atomic_directory,
    cache_root,
    discard,
    publish,
    warn_unwritable,
    write_atomic,
)
from irr.errors import InputError, OutputError
from irr.index.embedding import Progress, encode_slabs, rows_of_labels
from irr.index.files import VECTORS, VERSION
from irr.index.label_index import LabelIndex
from irr.vectors import MOST_COMPARED, NEIGHBOURS, Floats

if TYPE_CHECKING:
    from irr.encoder import Encoder
    from irr.labels import LabelSet

__all__ = ["index_folder", "make_index", "open_index"]

logger = logging.getLogger(__name__)

PROGRESS = "progress.json"
_ABANDONED_SECONDS = 14 * 24 * 3600


def open_index(
    labels: LabelSet,
    encoder: Encoder,
    *,
    cache: bool = True,
    approximate: bool | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> LabelIndex:
    """Open the index of a label set: from the user's cache where it is there, else built and kept.

    The place in the cache names the content of the labels and of the encoder: a change of
    either gives another index. A damaged entry is replaced, with a warning. Where the cache
    cannot be written, the index is built in memory, with a warning.

    Args:
        approximate: which kind it must be; None for the kind that is in the cache, else by size.
        threads: CPU threads for an approximate index; None for all this process may use.
    """
    if not cache:
        return LabelIndex.build(labels, encoder, approximate=approximate, progress=progress)
    try:
        return make_index(
            labels, encoder, approximate=approximate, threads=threads, progress=progress
        )
    except OutputError as exc:
        logger.warning("the index is not cached: %s", exc)
    except OSError as exc:
        warn_unwritable(exc)
    return LabelIndex.build(labels, encoder, approximate=approximate, progress=progress)


def index_folder(labels: LabelSet, encoder: Encoder) -> Path:
    """The place of an index in the cache."""
    made_of = (labels.content_hash, encoder.fingerprint, VERSION, NEIGHBOURS, MOST_COMPARED)
    key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
    return cache_root() / "indexes" / key


def make_index(
    labels: LabelSet,
    encoder: Encoder,
    *,
    approximate: bool | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> LabelIndex:
    """Do as `open_index`, but fail where the cache cannot be written.

    Raises:
        OSError, OutputError: it cannot be written.
    """
    folder = index_folder(labels, encoder)
    index = _load(folder, approximate, threads)
    if index is not None:
        return index
    with _partial(folder) as partial:
        index = _load(folder, approximate, threads)  # Another process may have made it by now.
        if index is not None:
            return index
        rows = rows_of_labels(labels)
        vectors = _embed(rows.texts, encoder, partial, progress)
        index = LabelIndex.of_units(
            vectors,
            rows.owners,
            kinds=rows.kinds,
            label_set=labels.content_hash,
            encoder=encoder.fingerprint,
            approximate=approximate,
            threads=threads,
        )
        index.save_beside_vectors(partial)
        # Windows does not rename a folder of which a file is mapped.
        del index, vectors
        publish(partial, folder)
    # Not before: without it all would be embedded again.
    (folder / PROGRESS).unlink(missing_ok=True)
    return LabelIndex.load(folder, verify=False)


def _load(folder: Path, approximate: bool | None, threads: int | None) -> LabelIndex | None:
    """The index of the wanted kind, remade from the other kind's vectors; None where none is."""
    if not folder.is_dir():
        return None
    try:
        index = LabelIndex.load(folder, verify=False)
    except InputError as exc:
        logger.warning("%s; it is built again", exc)
        discard(folder)
        return None
    if approximate in (None, index.approximate):
        return index
    other = LabelIndex.of_units(
        index.vectors,
        index.owners,
        kinds=index.kinds,
        approximate=approximate,
        threads=threads,
        label_set=index.label_set,
        encoder=index.encoder,
    )
    with atomic_directory(folder) as draft:
        other.save(draft)
        discard(folder)
    return other


def _embed(texts: list[str], encoder: Encoder, folder: Path, progress: Progress | None) -> Floats:
    """Embed all texts into ``vectors.npy`` of `folder`, beginning where an earlier run ended."""
    shape = (len(texts), encoder.dimensions)
    done = _rows_done(folder / PROGRESS, shape)
    with (folder / VECTORS).open("r+b" if done else "wb") as file:
        start = _begin(file, shape)
        # What follows the rows that are known to be whole may be torn.
        file.truncate(start + done * 4 * shape[1])
        file.seek(0, os.SEEK_END)
        for slab, rows in encode_slabs(texts, encoder, first=done, progress=progress):
            file.write(np.ascontiguousarray(rows, "<f4").data)
            file.flush()
            os.fsync(file.fileno())
            write_atomic(folder / PROGRESS, json.dumps({"rows": slab.stop}).encode())
    vectors: Floats = np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False)
    return vectors


def _begin(file: BinaryIO, shape: tuple[int, int]) -> int:
    """Write the head of a file of float32 of this shape; how long it is."""
    head = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, head)
    return file.tell()


def _rows_done(path: Path, shape: tuple[int, int]) -> int:
    """How many rows an earlier run had written to the disk."""
    try:
        rows = json.loads(path.read_bytes())["rows"]
        size = path.with_name(VECTORS).stat().st_size
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    whole = isinstance(rows, int) and 0 < rows <= shape[0] and size > rows * 4 * shape[1]
    return rows if whole else 0


@contextmanager
def _partial(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to build in, of this process alone while the block lasts.

    It is the one that an earlier run left, where files can be locked: else a fresh one, which
    is gone after an exception.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder.parent)
    with folder.with_name(f".{folder.name}.lock").open("ab") as lock:
        if _lock(lock):
            partial = folder.with_name(f".{folder.name}.partial")
            partial.mkdir(exist_ok=True)
            yield partial
            shutil.rmtree(partial, ignore_errors=True)
            return
    with atomic_directory(folder) as draft:
        yield draft


def _lock(file: BinaryIO) -> bool:
    """Wait for the lock of `file`, held until it is closed; False where there are no locks."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # The latter on CIFS.
        logger.warning("another process is embedding these labels: waiting for it")
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as exc:
        logger.debug("%s cannot be locked: %s", file.name, exc)
        return False
    return True


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed runs left, if none has gone on with it for two weeks."""
    for left in folder.glob(".*.partial"):
        with suppress(OSError):
            if left.stat().st_mtime < time.time() - _ABANDONED_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
