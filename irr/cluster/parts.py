"""The folder OUTPUT.parts: finished and unfinished parts of a run on many machines.

In: where the run's own journal is. Out: names for a part's rows and replies; how the input was
cut, and what the parts cost that are in the journal by now (plan.json). Every machine of the
cluster sees the folder.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from irr.cluster.slices import Done
from irr.errors import OutputError
from irr.journal.state import sync_folder
from irr.ledger import Counts
from irr.runs import replies_of

__all__ = ["Parts", "Plan", "Spent"]

logger = logging.getLogger(__name__)

_FORMAT, _VERSION = "irr parts", 1
_NAME = re.compile(r"part-(\d+)\.")


@dataclass(frozen=True, slots=True)
class Plan:
    """How a run is cut, and how far it has come.

    Args:
        first: documents before the first slice; their rows were there already.
        rows: documents in a slice at most.
        merged: parts, from the first on, whose rows are in the journal and on the disk.
        end: documents before the first part that is not.
        totals: what the LM calls of the merged parts cost, by role.
    """

    first: int
    rows: int
    merged: int = 0
    end: int = 0
    totals: Mapping[str, Counts] = field(default_factory=dict)

    def after(self, done: Done) -> Plan:
        """The plan once the next part is merged."""
        totals = _sum(self.totals, done.totals)
        return replace(self, merged=done.number + 1, end=done.end, totals=totals)


class Spent:
    """What a run has cost in all, with the parts that were heard of."""

    def __init__(self) -> None:
        self._before: Mapping[str, Counts] = {}
        self._parts: dict[int, Mapping[str, Counts]] = {}

    def begin(self, plan: Plan) -> None:
        """Take what earlier lives of the run have merged."""
        self._before = plan.totals

    def add(self, done: Done) -> None:
        """Take what a part has cost in all its lives."""
        self._parts[done.number] = done.totals

    def totals(self) -> dict[str, Counts]:
        """The sum by role, as `irr.ledger.Ledger.totals` has it."""
        return _sum(self._before, *self._parts.values())


class Parts:
    """The parts of the run into `output`."""

    def __init__(self, output: str | Path) -> None:
        self.folder = Path(f"{os.path.realpath(output)}.parts")
        self._plan_file = self.folder / "plan.json"

    def rows(self, number: int) -> Path:
        """The journal of a part."""
        return self.folder / f"part-{number:06d}.jsonl"

    def replies(self, number: int) -> Path:
        """The ledger of a part."""
        return replies_of(self.rows(number))

    def size(self, number: int) -> int:
        """The bytes of a part's rows and replies; 0 where it was not begun."""
        sizes = 0
        for path in self.folder.glob(f"{self.rows(number).name}*"):
            with suppress(FileNotFoundError):
                sizes += path.stat().st_size
        return sizes

    def begin(self, position: int, rows: int, *, restart: bool) -> Plan:
        """The plan of the run, which is the one it was begun with.

        Args:
            position: documents whose rows are in the journal.
            rows: documents in a slice at most, where the run is begun now.
            restart: forget all parts.

        Raises:
            OutputError: the folder holds something else, or cannot be written.
        """
        try:
            return self._begin(position, rows, restart=restart)
        except OSError as error:
            raise OutputError(f"{self.folder}: {error.strerror or error}") from error

    def settle(self, plan: Plan, done: Done) -> Plan:
        """Forget the next part: its rows are in the journal, and on the disk."""
        plan = plan.after(done)
        self._write(plan)
        self._remove(lambda number: number == done.number)
        return plan

    def discard(self) -> None:
        """Forget all parts, and the plan."""
        if self._plan_file.exists():
            shutil.rmtree(self.folder)

    def _begin(self, position: int, rows: int, *, restart: bool) -> Plan:
        if restart:
            self.discard()
        plan = self._read()
        if plan is None and self.folder.exists() and any(self.folder.iterdir()):
            raise OutputError(
                f"{self.folder}: is there, but no {self._plan_file.name} in it that says of which "
                "run: move it away, or name another --output"
            )
        if plan is not None and position < plan.end:
            logger.warning(
                "%d rows that were there are gone: the parts in %s are made anew",
                plan.end - position,
                self.folder,
            )
            self.discard()
            plan = None
        if plan is None:
            plan = Plan(position, rows, end=position)
            self.folder.mkdir(exist_ok=True)
            self._write(plan)
        self._remove(lambda number: number < plan.merged)
        return plan

    def _read(self) -> Plan | None:
        try:
            value = json.loads(self._plan_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            value = {}
        match value:
            case {"format": str(format_), "version": int(version), "plan": dict(plan)} if (
                format_ == _FORMAT and version == _VERSION
            ):
                totals = {role: Counts(**counts) for role, counts in plan["totals"].items()}
                return Plan(**{**plan, "totals": totals})
        raise OutputError(
            f"{self._plan_file}: is not of this version of irr: --restart begins anew"
        )

    def _write(self, plan: Plan) -> None:
        value = {"format": _FORMAT, "version": _VERSION, "plan": asdict(plan)}
        new = self._plan_file.with_suffix(".new")
        with new.open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(json.dumps(value, indent=1) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        new.replace(self._plan_file)
        sync_folder(self.folder)

    def _remove(self, gone: Callable[[int], bool]) -> None:
        for path in self.folder.iterdir():
            name = _NAME.match(path.name)
            if name and gone(int(name[1])):
                path.unlink(missing_ok=True)


def _sum(*totals: Mapping[str, Counts]) -> dict[str, Counts]:
    summed: dict[str, Counts] = {}
    for each in totals:
        for role, counts in each.items():
            summed[role] = summed.get(role, Counts()) + counts
    return summed
