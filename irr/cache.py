"""The user's cache folder: what can be made again, kept so that it need not be.

In go folders and files made elsewhere; out they come whole or not at all. An entry is written
under a temporary name beside its place, synced to the disk and renamed, so neither a crash nor
a second process leaves a half-written one. Nothing here is needed for a correct result: where
the cache cannot be written, one warning is logged and callers do without.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from irr.errors import ConfigurationError

__all__ = [
    "atomic_directory",
    "cache_root",
    "discard",
    "file_digests",
    "publish",
    "store_folder",
    "warn_unwritable",
    "write_atomic",
]

logger = logging.getLogger(__name__)

STALE_SECONDS = 24 * 3600
# A file changed twice within the clock's tick keeps its times; such a file is not remembered yet.
SETTLED_NS = 2_000_000_000


def cache_root() -> Path:
    """The folder of the cache: ``$IRR_CACHE``, else the platform's. It may not exist yet.

    Raises:
        ConfigurationError: ``$IRR_CACHE`` begins with a "~" that stands for no known folder.
    """
    if chosen := os.environ.get("IRR_CACHE"):
        try:
            return Path(chosen).expanduser().absolute()
        except RuntimeError as error:
            raise ConfigurationError(
                f"IRR_CACHE={chosen}: no home folder is known for {Path(chosen).parts[0]!r}: "
                "write the path in full"
            ) from error
    import platformdirs

    return Path(platformdirs.user_cache_dir("irr", appauthor=False))


def store_folder(*parts: str) -> Path | None:
    """The folder `parts` of the cache, made where missing; None where it cannot be written.

    The first None of a process is logged as a warning. Reading needs no `store_folder`: an
    entry of a read-only cache lies at ``cache_root().joinpath(*parts)``.
    """
    folder = cache_root().joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = _draft_beside(folder / "probe")
        probe.touch()
        probe.unlink()
    except OSError as error:
        warn_unwritable(error)
        return None
    return folder


def warn_unwritable(error: OSError) -> None:
    """Log once a process and cause that the cache cannot be written."""
    _warn_once(str(cache_root()), error.strerror or str(error))


@cache
def _warn_once(root: str, reason: str) -> None:
    logger.warning(
        "cannot write the cache %s (%s): working without it, every start will be slower; "
        "set IRR_CACHE to a writable folder",
        root,
        reason,
    )


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` that becomes `path` when the block ends well.

    If `path` exists by then, another process was first: its entry stays and this one goes.
    After an exception in the block nothing is left. Leftovers of runs that crashed more than a
    day ago are removed on the way.

    Raises:
        OSError: the folder cannot be made, synced or renamed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path.parent)
    draft = _draft_beside(path)
    draft.mkdir()
    try:
        yield draft
        publish(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def publish(draft: Path, path: Path) -> None:
    """Give the folder `draft` its name `path` beside it, once it is on the disk.

    If `path` exists by then, another process was first: its entry stays, and so does the draft.

    Raises:
        OSError: the folder cannot be synced or renamed.
    """
    _sync_tree(draft)
    try:
        draft.rename(path)
    except OSError:
        if not path.is_dir():
            raise
    _sync(path.parent)


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` as the file `path`: readers see the old content or the new, never a part.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path.parent)
    draft = _draft_beside(path)
    try:
        with draft.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        _sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def discard(path: Path) -> None:
    """Remove the folder `path`; it leaves its name at once, so no reader sees half of it."""
    grave = _draft_beside(path)
    with suppress(OSError):
        path.rename(grave)
    shutil.rmtree(grave, ignore_errors=True)


def file_digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The sha256 (hex) of each file of `folder`, by its name, in sorted order.

    Digests are remembered in the cache as long as a file's size and times of modification and
    change stay the same. The time of change counts because packages and copies often carry a
    fixed time of modification.

    Raises:
        OSError: a file cannot be read.
    """
    memo = _memo_path(folder)
    known = _read_memo(memo)
    fresh: dict[str, list[int | str]] = {}
    digests: dict[str, str] = {}
    for name in sorted(set(names)):
        stamp = _stamp(folder / name)
        if (row := known.get(name)) and row[:3] == stamp and isinstance(row[3], str):
            digests[name] = row[3]
        else:
            with (folder / name).open("rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
        if max(stamp[1:]) < time.time_ns() - SETTLED_NS:
            fresh[name] = [*stamp, digests[name]]
    if fresh and fresh != known and store_folder("digests"):
        try:
            write_atomic(memo, json.dumps(fresh).encode())
        except OSError as error:
            warn_unwritable(error)
    return digests


def _read_memo(path: Path) -> dict[str, list[int | str]]:
    try:
        rows = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(rows, dict):
        return {}
    return {name: row for name, row in rows.items() if isinstance(row, list) and len(row) == 4}


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _memo_path(folder: Path) -> Path:
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]
    return cache_root() / "digests" / f"{name}.json"


def _draft_beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def _remove_stale(folder: Path) -> None:
    for draft in folder.glob(".*.tmp"):
        with suppress(OSError):
            if draft.lstat().st_mtime < time.time() - STALE_SECONDS:
                if draft.is_dir() and not draft.is_symlink():
                    shutil.rmtree(draft, ignore_errors=True)
                else:
                    draft.unlink()


def _sync_tree(folder: Path) -> None:
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            _sync(Path(parent, name))
        _sync(Path(parent))


def _sync(path: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there, nor files synced through a reader
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
