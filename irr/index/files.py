"""The files of an index: a JSON header that names the others, .npy arrays, and FAISS cells.

In: a folder. Out: header and arrays, checked; no pickle.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from irr.cache import file_digests
from irr.errors import InputError

__all__ = ["CELLS", "HEADER", "VECTORS", "VERSION", "digests", "read_array", "read_header"]

VERSION = 2
HEADER = "index.json"
VECTORS = "vectors.npy"
# Only an approximate index has it.
CELLS = "cells.faiss"


def digests(folder: Path, *, approximate: bool) -> dict[str, str]:
    """The sha256 of each file beside the header."""
    names = [VECTORS, "owners.npy", "kinds.npy", "hubs.npy"] + ([CELLS] if approximate else [])
    try:
        return file_digests(folder, names)
    except OSError as exc:
        raise InputError(f"cannot be read: {exc.strerror or exc}", path=folder) from exc


def read_header(path: Path) -> dict[str, Any]:
    """Read a header; an InputError says what is wrong with it."""
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


def read_array(
    path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...], mmap: bool
) -> npt.NDArray[Any]:
    """Read or map an array that must be of this kind; an InputError says how it is not."""
    try:
        array = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as exc:
        raise InputError(f"cannot be read: {exc}: build the index again", path=path) from exc
    if array.dtype != dtype or array.shape != shape:
        message = f"holds {array.dtype} {array.shape}, not {np.dtype(dtype)} {shape}"
        raise InputError(f"{message}: build the index again", path=path)
    return np.asarray(array)
