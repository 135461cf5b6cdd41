"""Ledger: every LM reply is kept before it is used, counted, and held against a budget.

In: requests and the replies to them. Out: the kept reply where the same request was paid for
before, in this run or an earlier one; counts by role (student, teacher), of this process and of
the file's whole life; a stop when the budget is spent. Kept in one SQLite file (write-ahead log,
so a kill loses only calls in flight); no pickle, and neither key nor header nor endpoint in it.
"""

from __future__ import annotations

from irr.ledger.accounts import Budget, BudgetError, Counts, Price, Reply, read_prices
from irr.ledger.store import Ledger, key_of

__all__ = ["Budget", "BudgetError", "Counts", "Ledger", "Price", "Reply", "key_of", "read_prices"]
