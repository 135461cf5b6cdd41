"""What LM calls cost, and what they may: prices, budgets, counts, and the account of a role."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from irr.errors import ConfigurationError, LMError, OutputError

__all__ = ["Account", "Budget", "BudgetError", "Counts", "Price", "Reply", "read_prices"]


class BudgetError(LMError):
    """The budget is spent: no further call is made."""

    def __init__(self, message: str) -> None:
        super().__init__(message, fatal=True)


class KeepError(LMError):
    """Replies cannot be kept any more: the disk is full, or the file is gone."""

    exit_status = OutputError.exit_status


class Reply(NamedTuple):
    """What an LM answered. `finish_reason` is "stop", "length" or "content_filter"."""

    content: str
    finish_reason: str = "stop"
    refusal: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0


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
    """Limits of a run; None is no limit. Replies kept from earlier runs cost nothing.

    With `whole`, calls and cost are those of the ledger's file in its whole life, so that a run
    which is killed and begun again stays within them; minutes are always this process's.
    """

    max_calls: int | None = None
    max_cost: float | None = None
    max_minutes: float | None = None
    whole: bool = False


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

    def __add__(self, other: Counts) -> Counts:
        unknown = self.cost is None or other.cost is None
        return Counts(
            self.calls + other.calls,
            self.kept + other.kept,
            self.failed + other.failed,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            None if unknown else (self.cost or 0.0) + (other.cost or 0.0),
        )


class Account:
    """What one role spends in this process; `earlier` is what its file tells of others."""

    def __init__(self, model: str, price: Price | None, earlier: Counts) -> None:
        self.model = model
        self.price = price
        self.earlier = earlier
        self.calls = self.kept = self.failed = self.input_tokens = self.output_tokens = 0
        self.cost: float = 0.0
        self.reserved: float = 0.0  # dollars, for requests that are under way

    def counts(self) -> Counts:
        known = self.price is not None or not self.input_tokens + self.output_tokens
        return Counts(
            self.calls,
            self.kept,
            self.failed,
            self.input_tokens,
            self.output_tokens,
            self.cost if known else None,
        )

    def take(self, reply: Reply, reckoned: float = 0.0) -> None:
        """Count a reply; where the server does not say what it took, at what was reckoned."""
        self.input_tokens += reply.input_tokens
        self.output_tokens += reply.output_tokens
        if self.price is not None:
            told = self.price.of(reply.input_tokens, reply.output_tokens)
            self.cost += told if reply.input_tokens or reply.output_tokens else reckoned


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
