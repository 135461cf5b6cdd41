"""Ledger: every LM reply is kept before it is used, counted, and held against a budget.

In: requests and the replies to them. Out: the kept reply where the same request was paid for
before, in this run or an earlier one; counts by role (student, teacher); a stop when the budget
is spent. Kept in one SQLite file (write-ahead log, so a kill loses only calls in flight); no
pickle, and neither key nor header nor endpoint in it.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from irr.errors import ConfigurationError, LMError, OutputError

__all__ = ["Budget", "BudgetError", "Counts", "Ledger", "Price", "read_prices"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
_VERSION = "1"
# What an answer is reckoned to have before it is there: some ten guesses or numbers.
_ANSWER_TOKENS = 60


class BudgetError(LMError):
    """The budget is spent: no further call is made."""

    def __init__(self, message: str) -> None:
        super().__init__(message, fatal=True)


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs, in dollars for a million tokens."""

    input: float
    output: float

    def of(self, input_tokens: int, output_tokens: int) -> float:
        """Dollars for so many tokens."""
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of a run; None is no limit. Replies kept from earlier runs cost nothing."""

    max_calls: int | None = None
    max_cost: float | None = None
    max_minutes: float | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """What one role spent: requests sent (retries too), replies that were kept, tokens.

    `failed` requests got no usable answer. `cost` is in dollars, None where the model's price is
    unknown.
    """

    calls: int = 0
    kept: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = 0.0


@dataclass(slots=True)
class _Account:
    model: str
    price: Price | None
    counts: Counts = field(default_factory=Counts)
    reserved: float = 0.0  # dollars, for requests that are under way


class Ledger:
    """Replies, counts and budget of one run. May be used from several threads.

    Args:
        path: the SQLite file; made when missing. None keeps replies in memory only.

    Raises:
        OutputError: the file cannot be opened, or another run is writing to it.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        budget: Budget | None = None,
        prices: Mapping[str, Price] | None = None,
    ) -> None:
        self.budget = budget or Budget()
        self._prices = prices or {}
        self._accounts: dict[str, _Account] = {}
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._under_way = 0
        self._started = time.monotonic()
        self.stopped: LMError | None = None
        try:
            self._db = sqlite3.connect(path or ":memory:", check_same_thread=False, timeout=1.0)
            # Held until the file is closed: two runs would pay for the same calls.
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
            self._db.execute("INSERT OR IGNORE INTO meta VALUES ('version', ?)", (_VERSION,))
            self._db.commit()
            row = self._db.execute("SELECT value FROM meta WHERE name = 'version'").fetchone()
        except sqlite3.Error as error:
            if "locked" in str(error):
                message = "another run is using it: wait for it, or name another --output"
                raise OutputError(f"{path}: {message}") from error
            raise OutputError(f"{path}: cannot keep LM replies there: {error}") from error
        if row[0] != _VERSION:
            raise OutputError(f"{path}: replies of version {row[0]}; move the file away")

    def close(self, patience: float = 30.0) -> None:
        """Close the file, after the requests under way have been answered: they are paid for.

        They are waited for `patience` seconds at most.
        """
        with self._idle:
            self._idle.wait_for(lambda: self._under_way == 0, timeout=patience)
            self._db.close()

    def open_account(self, role: str, model: str) -> None:
        """Name the model of a role before its first call.

        Raises:
            ConfigurationError: there is a limit on cost, and the model's price is unknown.
        """
        price = self._prices.get(model, self._prices.get(f"openai/{model}"))
        if price is None and self.budget.max_cost is not None:
            raise ConfigurationError(
                f"--max-cost needs the price of {model!r}: give it with --prices FILE, a JSON "
                'object such as {"MODEL": {"input": 0.15, "output": 0.6}} (dollars for a million '
                "tokens)"
            )
        self._accounts[role] = _Account(model, price)

    def key_of(self, role: str, endpoint: str, request: Mapping[str, object]) -> str:
        """The name of a request: a hash of where it goes and all it says."""
        told = json.dumps([role, endpoint, request], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()

    def find(self, role: str, key: str) -> dict[str, object] | None:
        """The reply kept under `key`, or None."""
        with self._lock:
            row = self._db.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
            if row is None:
                return None
            account = self._accounts[role]
            account.counts = replace(account.counts, kept=account.counts.kept + 1)
        reply: dict[str, object] = json.loads(row[0])
        return reply

    def begin(self, role: str, characters: int = 0) -> float:
        """Count a request that is about to be sent; `end` must follow.

        Args:
            characters: the length of the prompt, from which its cost is reserved.

        Returns:
            What was reserved, for `end`.

        Raises:
            BudgetError: the budget is spent, or would be by the requests under way.
            LMError: an earlier call ended the run.
        """
        with self._lock:
            account = self._accounts[role]
            expected = account.price.of(characters // 4, _ANSWER_TOKENS) if account.price else 0.0
            if self.stopped is None:
                spent = self._spent(expected)
                if spent is not None:
                    self.stopped = BudgetError(spent)
            if self.stopped is not None:
                raise self.stopped
            account.counts = replace(account.counts, calls=account.counts.calls + 1)
            account.reserved += expected
            self._under_way += 1
            return expected

    def end(self, role: str, reserved: float, *, answered: bool) -> None:
        """A request that was begun has ended."""
        with self._idle:
            account = self._accounts[role]
            account.reserved -= reserved
            if not answered:
                account.counts = replace(account.counts, failed=account.counts.failed + 1)
            self._under_way -= 1
            self._idle.notify_all()

    def keep(
        self,
        role: str,
        key: str,
        reply: Mapping[str, object],
        *,
        input_tokens: int,
        output_tokens: int,
    ) -> None:
        """Keep a reply, durably, and count what it cost."""
        with self._lock:
            account = self._accounts[role]
            counts, price = account.counts, account.price
            cost = None
            if price is not None and counts.cost is not None:
                cost = counts.cost + price.of(input_tokens, output_tokens)
            account.counts = replace(
                counts,
                input_tokens=counts.input_tokens + input_tokens,
                output_tokens=counts.output_tokens + output_tokens,
                cost=cost,
            )
            text = json.dumps(reply, ensure_ascii=True)
            try:
                self._db.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (key, text))
                self._db.commit()
            except sqlite3.Error as error:
                message = f"LM replies cannot be kept any more: {error}"
                self.stopped = self.stopped or LMError(message, fatal=True)
                raise self.stopped from error

    def stop(self, error: LMError) -> None:
        """End the run: no further request is sent, every one fails with `error` at once."""
        with self._lock:
            self.stopped = self.stopped or error

    def counts(self) -> dict[str, Counts]:
        """What each role spent so far."""
        with self._lock:
            return {role: account.counts for role, account in self._accounts.items()}

    def failures(self) -> int:
        """How many requests got no usable answer."""
        with self._lock:
            return sum(account.counts.failed for account in self._accounts.values())

    def models(self) -> dict[str, str]:
        """The model of each role."""
        return {role: account.model for role, account in self._accounts.items()}

    def price_of(self, role: str) -> Price | None:
        """What the model of a role costs, where it is known."""
        account = self._accounts.get(role)
        return None if account is None else account.price

    def _spent(self, expected: float) -> str | None:
        budget = self.budget
        accounts = self._accounts.values()
        calls = sum(account.counts.calls for account in accounts)
        if budget.max_calls is not None and calls >= budget.max_calls:
            return f"the budget of {budget.max_calls:,} calls is spent"
        if budget.max_cost is not None:
            cost = sum((account.counts.cost or 0.0) + account.reserved for account in accounts)
            if cost + expected > budget.max_cost:
                return f"the budget of ${budget.max_cost:,.4g} is spent"
        minutes = (time.monotonic() - self._started) / 60
        if budget.max_minutes is not None and minutes >= budget.max_minutes:
            return f"the budget of {budget.max_minutes:g} minutes is spent"
        return None


def read_prices(path: Path | str) -> dict[str, Price]:
    """Read a JSON object: model → {"input": …, "output": …}, dollars for a million tokens.

    Raises:
        ConfigurationError: the file cannot be read as described.
    """
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
        prices = {}
        for model, entry in table.items():
            price = Price(float(entry["input"]), float(entry["output"]))
            if not (0 <= price.input < 1e9 and 0 <= price.output < 1e9):
                raise ValueError(f"{model!r}: prices are numbers of at least 0")
            prices[str(model)] = price
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{path}: no prices: {error}; give a JSON object such as "
            '{"MODEL": {"input": 0.15, "output": 0.6}}'
        ) from None
    return prices
