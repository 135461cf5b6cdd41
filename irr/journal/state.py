"""What a run is and how far it has come: FILE.run.json.

In: the run's description and its checkpoints. Out: one JSON object, replaced atomically and on
the disk when `write_state` returns.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path

from irr.errors import OutputError
from irr.types import Document

__all__ = [
    "NO_ROWS",
    "Carried",
    "Checkpoint",
    "RunState",
    "differing",
    "extend_digest",
    "read_state",
    "sync_folder",
    "write_state",
]

_FORMAT, _VERSION = "irr run", 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Rows that are on the disk.

    `bytes` they take as JSON lines, `failed` of them have status "error"; `input_digest` is what
    `extend_digest` made of their documents, in hexadecimals.
    """

    rows: int = 0
    bytes: int = 0
    failed: int = 0
    input_digest: str = ""


NO_ROWS = Checkpoint()


@dataclass(frozen=True, slots=True)
class Carried:
    """Earlier rows that go into a new file: all of them, or all but those with status "error".

    `source` is "output" (FILE) or "partial" (FILE.partial), `checkpoint` the earlier rows'.
    """

    source: str
    retry_failed: bool
    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class RunState:
    """The contents of FILE.run.json.

    `earlier_runs` has a {"rows", "run"} for each time the run was continued although it had
    changed: so many rows were there by then.
    """

    run: Mapping[str, object]
    checkpoint: Checkpoint = NO_ROWS
    finished: bool = False
    carried: Carried | None = None
    earlier_runs: tuple[Mapping[str, object], ...] = field(default=())


def extend_digest(digest: bytes, document: Document) -> bytes:
    """Make the digest of all documents up to this one from that of those before it.

    Args:
        digest: 16 bytes, or none before the first document.
        document: its id, text and selection count.

    Returns:
        16 bytes.
    """
    id_ = document.id.encode("utf-8", "surrogatepass")
    text = document.text.encode("utf-8", "surrogatepass")
    head = len(id_).to_bytes(8, "big")
    digest = blake2b(b"".join((digest, head, id_, text)), digest_size=16).digest()
    if not document.selection:
        return digest
    # Another function than above: no text can be taken for a selection.
    chosen = json.dumps([document.selection.include, document.selection.exclude]).encode()
    return blake2b(digest + chosen, digest_size=16, person=b"selection").digest()


def differing(run: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    """Name what one of two runs lacks or has otherwise, in order."""
    missing = object()
    names = dict.fromkeys([*run, *other])
    return [name for name in names if run.get(name, missing) != other.get(name, missing)]


def read_state(path: Path) -> RunState | None:
    """Read what `write_state` wrote; None where there is no such file.

    Raises:
        OutputError: it is no such file, or of a later version.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        value = json.loads(text)
        known = value["format"] == _FORMAT
        if known and value["version"] == _VERSION:
            return _state(value)
    except (ValueError, KeyError, TypeError, AttributeError):
        known = False
    what = "is of a later version of irr: update irr" if known else "does not tell of a run"
    raise OutputError(f"{path}: {what}; --restart begins anew")


def write_state(path: Path, state: RunState) -> None:
    """Replace the file at `path`; when this returns, it is on the disk.

    Raises:
        OSError: it could not be written; what was at `path` is still there.
    """
    checkpoint = asdict(state.checkpoint)
    value = {
        "format": _FORMAT,
        "version": _VERSION,
        "run": dict(state.run),
        **checkpoint,
        "finished": state.finished,
        "carried": None if state.carried is None else asdict(state.carried),
        "earlier_runs": list(state.earlier_runs),
    }
    text = json.dumps(value, ensure_ascii=True, indent=1) + "\n"
    new = path.with_name(path.name + ".new")
    try:
        with new.open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        new.replace(path)
    except OSError:
        with suppress(OSError):
            new.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in `folder` to the disk, where the system can do so."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _state(value: Mapping[str, object]) -> RunState:
    match value:
        case {
            "run": dict(run),
            "finished": bool(finished),
            "carried": None | dict() as carried,
            "earlier_runs": list(earlier),
        }:
            return RunState(
                run, _checkpoint(value), finished, _carried(carried), tuple(map(dict, earlier))
            )
    raise ValueError


def _carried(value: Mapping[str, object] | None) -> Carried | None:
    match value:
        case None:
            return None
        case {
            "source": "output" | "partial" as source,
            "retry_failed": bool(retry),
            "checkpoint": dict(checkpoint),
        }:
            return Carried(source, retry, _checkpoint(checkpoint))
    raise ValueError


def _checkpoint(value: Mapping[str, object]) -> Checkpoint:
    match value:
        case {
            "rows": int(rows),
            "bytes": int(size),
            "failed": int(failed),
            "input_digest": str(digest),
        } if min(rows, size, failed) >= 0:
            bytes.fromhex(digest)
            return Checkpoint(rows, size, failed, digest)
    raise ValueError
