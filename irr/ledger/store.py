"""The ledger itself: replies by the key of their request, in one SQLite file or in memory."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from irr.errors import ConfigurationError, LMError, OutputError
from irr.ledger.accounts import Account, Budget, BudgetError, Counts, KeepError, Price, Reply

__all__ = ["Ledger", "key_of"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY, content TEXT NOT NULL, finish_reason TEXT NOT NULL, refusal TEXT,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS totals (
    role TEXT PRIMARY KEY, calls INTEGER NOT NULL, failed INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, cost REAL
);
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
_VERSION = "2"
# What an answer is reckoned to have before it is there: some ten guesses or numbers.
_ANSWER_TOKENS = 60
_SHORT = 2047
_GO_ON = "to go on, run again with a higher"


def key_of(role: str, body: bytes) -> str:
    """What identifies a request: its body, which holds the model, and who asks. Not the server:
    a local one has another port each time it is started.
    """
    digest = hashlib.blake2b(role.encode() + b"\0", digest_size=16)
    # For longer pieces hashlib lets other threads run, and getting the turn back takes far longer.
    for start in range(0, len(body), _SHORT):
        digest.update(body[start : start + _SHORT])
    return digest.hexdigest()


class Ledger:
    """Replies, counts and budget of one run. May be used from several threads.

    Args:
        path: the SQLite file; made when missing. None keeps replies in memory only.
        keep: False counts, and keeps no replies.

    Raises:
        OutputError: the file cannot be opened, or another run is writing to it.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        budget: Budget | None = None,
        prices: Mapping[str, Price] | None = None,
        keep: bool = True,
    ) -> None:
        self.budget = budget or Budget()
        self.keeps = keep
        self._prices = prices or {}
        self._accounts: dict[str, Account] = {}
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._under_way = 0
        self._started = time.monotonic()
        self._replies: dict[str, Reply] = {}
        self._pending: list[tuple[str, Reply]] = []
        self._changed: set[str] = set()  # roles
        self._earlier: dict[str, Counts] = {}
        self.stopped: LMError | None = None
        self._path = path
        self._db = None if path is None else self._open(path)

    def _open(self, path: Path) -> sqlite3.Connection:
        try:
            db = sqlite3.connect(path, check_same_thread=False, timeout=1.0, isolation_level=None)
            # Held until the file is closed: two runs would pay for the same calls.
            db.execute("PRAGMA locking_mode=EXCLUSIVE")
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute("PRAGMA cache_size=-8192")  # KiB: memory must not grow with the file
            db.execute("BEGIN IMMEDIATE")
            version = self._version(db)
            if version == _VERSION:
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)
                db.execute("INSERT OR IGNORE INTO meta VALUES ('version', ?)", (_VERSION,))
                for role, *numbers in db.execute("SELECT * FROM totals"):
                    self._earlier[role] = Counts(numbers[0], 0, *numbers[1:])
            db.execute("COMMIT")
        except sqlite3.Error as error:
            if "locked" in str(error):
                message = "another run is using it: wait for it, or name another --output"
                raise OutputError(f"{path}: {message}") from error
            message = f"cannot keep LM replies there: {error}; move the file away"
            raise OutputError(f"{path}: {message}") from error
        if version != _VERSION:
            db.close()
            raise OutputError(f"{path}: replies of version {version}; move the file away")
        return db

    @staticmethod
    def _version(db: sqlite3.Connection) -> str:
        """The version of the file, which for an empty one is ours."""
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone() is None:
            return _VERSION
        row = db.execute("SELECT value FROM meta WHERE name = 'version'").fetchone()
        return _VERSION if row is None else str(row[0])

    def close(self, patience: float = 30.0) -> None:
        """Close the file, after the requests under way have been answered: they are paid for.

        They are waited for `patience` seconds at most.
        """
        with self._idle:
            self._idle.wait_for(lambda: self._under_way == 0, timeout=patience)
            if self._db is not None:
                try:
                    self._commit()
                finally:
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
        with self._lock:
            earlier = self._earlier.get(role, Counts())
            account = self._accounts.setdefault(role, Account(model, price, earlier))
            account.model, account.price = model, price

    def find(self, role: str, key: str) -> Reply | None:
        """The reply to a request that was paid for before."""
        with self._lock:
            reply = self._find(key)
            if reply is not None:
                self._accounts[role].kept += 1
            return reply

    def _find(self, key: str) -> Reply | None:
        if self._db is None:
            return self._replies.get(key)
        columns = "content, finish_reason, refusal, input_tokens, output_tokens"
        row = self._db.execute(f"SELECT {columns} FROM replies WHERE key = ?", (key,)).fetchone()
        return None if row is None else Reply(*row)

    def begin(self, role: str, characters: int = 0) -> float:
        """Count a request that is about to be sent; `answered` or `failed` must follow.

        Args:
            characters: the length of the request, from which its cost is reserved.

        Returns:
            What was reserved, in dollars.

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
            account.calls += 1
            account.reserved += expected
            self._under_way += 1
            return expected

    def failed(self, role: str, reserved: float) -> None:
        """A request that was begun ended without an answer."""
        with self._idle:
            self._ended(role, reserved).failed += 1

    def unsent(self, role: str, reserved: float) -> None:
        """A request that was begun reached nobody: it was no call."""
        with self._idle:
            self._ended(role, reserved).calls -= 1

    def answered(self, role: str, reserved: float, key: str, reply: Reply) -> None:
        """A request that was begun was answered: count what it cost, and keep the reply.

        It must not be used before `commit`, which keeps all that were answered together.
        """
        with self._idle:
            self._ended(role, reserved).take(reply, reserved)
            self._keep(key, reply)

    def put(self, key: str, reply: Reply, role: str | None = None) -> None:
        """Keep a reply that came another way; with a `role`, count it as a call of that role.

        Raises:
            LMError: the reply cannot be kept.
        """
        with self._lock:
            if role is not None:
                account = self._accounts[role]
                account.calls += 1
                account.take(reply)
                self._changed.add(role)
            self._keep(key, reply)
            self._commit()

    def commit(self) -> None:
        """Write what was answered since the last commit, in one transaction.

        Raises:
            LMError: it cannot be kept.
        """
        with self._lock:
            self._commit()

    def stop(self, error: LMError) -> None:
        """End the run: no further request is sent, every one fails with `error` at once."""
        with self._lock:
            self.stopped = self.stopped or error

    def counts(self) -> dict[str, Counts]:
        """What each role spent so far in this process. Replies that were kept cost nothing."""
        with self._lock:
            return {role: account.counts() for role, account in self._accounts.items()}

    def totals(self) -> dict[str, Counts]:
        """What each role spent in the whole life of the file; `kept` is this process's."""
        with self._lock:
            now = {role: each.earlier + each.counts() for role, each in self._accounts.items()}
            return {**self._earlier, **now}

    def failures(self) -> int:
        """How many requests got no usable answer."""
        with self._lock:
            return sum(account.failed for account in self._accounts.values())

    def models(self) -> dict[str, str]:
        """The model of each role."""
        return {role: account.model for role, account in self._accounts.items()}

    def price_of(self, role: str) -> Price | None:
        """What the model of a role costs, where it is known."""
        account = self._accounts.get(role)
        return None if account is None else account.price

    def _ended(self, role: str, reserved: float) -> Account:
        account = self._accounts[role]
        account.reserved -= reserved
        self._under_way -= 1
        self._idle.notify_all()
        self._changed.add(role)
        return account

    def _keep(self, key: str, reply: Reply) -> None:
        if not self.keeps:
            return
        if self._db is None:
            self._replies[key] = reply
        else:
            self._pending.append((key, reply))

    def _commit(self) -> None:
        """The replies that came in, and what their roles have spent by now."""
        if self._db is None or not (self._pending or self._changed):
            return
        try:
            self._db.execute("BEGIN")
            self._db.executemany(
                "INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?, ?, ?)",
                [(key, *reply) for key, reply in self._pending],
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO totals VALUES (?, ?, ?, ?, ?, ?)",
                [self._total(role) for role in self._changed],
            )
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            message = f"{self._path}: LM replies cannot be kept any more: {error}"
            if "full" in str(error):
                message += ": free some space and run again"
            self.stopped = self.stopped or KeepError(message, fatal=True)
            raise self.stopped from error
        self._pending.clear()
        self._changed.clear()

    def _total(self, role: str) -> tuple[object, ...]:
        account = self._accounts[role]
        total = account.earlier + account.counts()
        tokens = (total.input_tokens, total.output_tokens)
        return (role, total.calls, total.failed, *tokens, total.cost)

    def _spent(self, expected: float) -> str | None:
        budget = self.budget
        if budget.max_calls is not None and self._sum("calls") >= budget.max_calls:
            return f"the budget of {budget.max_calls:,} calls is spent: {_GO_ON} --max-calls"
        if budget.max_cost is not None:
            under_way = sum(account.reserved for account in self._accounts.values())
            if self._sum("cost") + under_way + expected > budget.max_cost:
                spent = self._sum("cost")
                told = "is spent" if spent else "does not pay for one call"
                return f"the budget of ${budget.max_cost:,.4g} {told}: {_GO_ON} --max-cost"
        if budget.max_minutes is not None:
            minutes = (time.monotonic() - self._started) / 60
            if minutes >= budget.max_minutes:
                return f"the budget of {budget.max_minutes:g} minutes is spent"
        return None

    def _sum(self, name: str) -> float:
        """Of calls or cost: this process's, or the file's."""
        spent: float = sum(getattr(account, name) for account in self._accounts.values())
        if self.budget.whole:
            spent += sum(getattr(counts, name) or 0 for counts in self._earlier.values())
        return spent
