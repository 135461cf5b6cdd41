"""A journal of JSON lines → the finished file, in the format of its name.

In: FILE.partial, whole and on the disk. Out: FILE, which appears at once: JSON lines, packed
(.gz), or Parquet (.parquet).
"""

from __future__ import annotations

import gzip
import os
import shutil
from contextlib import suppress
from pathlib import Path

from irr.journal.state import sync_folder

__all__ = ["publish"]


def publish(lines: Path, final: Path) -> None:
    """Give the JSON lines at `lines` the name `final`, converted where its ending says so.

    Raises:
        OSError: it could not be written; `lines` and an older `final` are as they were.
    """
    ending = final.suffix.lower()
    if ending not in (".gz", ".parquet"):
        lines.replace(final)
        sync_folder(final.parent)
        return
    new = final.with_name(final.name + ".new")
    try:
        (_pack if ending == ".gz" else _tabulate)(lines, new)
        new.replace(final)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise
    sync_folder(final.parent)
    lines.unlink()


def _pack(lines: Path, target: Path) -> None:
    with lines.open("rb") as source, target.open("wb") as raw:
        # Neither name nor time, so that the same rows are the same bytes.
        with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
            shutil.copyfileobj(source, packed, 1 << 20)
        raw.flush()
        os.fsync(raw.fileno())


def _tabulate(lines: Path, target: Path) -> None:
    from irr.parquet import write_predictions

    with lines.open("rb") as source:
        write_predictions(source, target)
    with target.open("rb") as written:
        os.fsync(written.fileno())
