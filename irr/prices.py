"""Prices: an LM and where it is asked → dollars for a million tokens, or None where unknown.

In: the name of an LM as `--lm` takes it, the address of its server, the user's own file of prices.
Out: a `KnownPrice`, which says where it is from. The user's file comes first. Else the prices
kept in the package `genai-prices` (by Pydantic) are asked, as current as its installed version:
nothing is looked up in the network, and a newer version brings newer prices. They are used only
for OpenAI's own address and for those of other providers that the package knows by name; no price
is guessed for a server of the user's own or for a model that the package does not list.

What is asked of a price is that the bill is not higher:

- input that the provider has in its cache is cheaper; it is reckoned at the plain input price;
- where the price rises with the length of the prompt, it is that of a prompt of
  `PROMPT_TOKENS`, more than a prompt of Infer or Rank has by default;
- where it depends on the time of day, it is the highest of the day;
- batch and priority tiers are not considered.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

from irr.ledger import Price, read_prices

__all__ = ["PROMPT_TOKENS", "KnownPrice", "known_prices", "price_of"]

# Rank's prompt: 6,000 characters of text, 100 candidates of 160, up to 8 examples of as much.
PROMPT_TOKENS = 50_000
PACKAGE = "genai-prices"
OPENAI_BASE = "https://api.openai.com/v1"
# Addresses under which users serve models of their own, paid by the hour.
_OWN_SERVERS = frozenset({"modal"})
_HALF_HOURS = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPrice(Price):
    """The price of a model, and where it is from (the name of a file, or a package's version)."""

    model: str
    source: str

    def __str__(self) -> str:
        prices = f"{_dollars(self.input)} in, {_dollars(self.output)} out"
        return f"{self.model}: {prices} per million tokens ({self.source})"


def price_of(
    model: str, *, prices_file: Path | str | None = None, api_base: str | None = None
) -> KnownPrice | None:
    """What a model costs, or None where that is not known.

    Args:
        model: as `--lm` takes it: ``openai/MODEL``, or the name that the server has for it.
        prices_file: a file as `irr.ledger.read_prices` reads it, with or without ``openai/``
            before its models.
        api_base: the server, where it is not OpenAI's; several are separated by commas. None is
            ``OPENAI_BASE_URL``, as for the LM itself.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    name = model.removeprefix("openai/")
    if prices_file is not None:
        prices = read_prices(prices_file)
        found = prices.get(name, prices.get(f"openai/{name}"))
        if found is not None:
            source = Path(prices_file).name
            return KnownPrice(found.input, found.output, model=name, source=source)
    base = api_base or os.environ.get("OPENAI_BASE_URL")
    if base is None and not model.startswith("openai/"):
        return None
    offers = {_listed(name, address.strip()) for address in (base or OPENAI_BASE).split(",")}
    return offers.pop() if len(offers) == 1 else None


def known_prices(
    lms: Iterable[tuple[str, str | None]], *, prices_file: Path | str | None = None
) -> dict[str, KnownPrice]:
    """The prices that are known, by model without ``openai/``, as a `Ledger` takes them.

    Args:
        lms: (name, API base) of each LM, as `irr.build.LMChoice.for_stage` gives them; "none"
            is left out.
        prices_file: see `price_of`.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    if prices_file is not None:
        read_prices(prices_file)  # What is wrong with it is said also where no LM is asked.
    named = [(name, base) for name, base in lms if name != "none"]
    found = [price_of(name, prices_file=prices_file, api_base=base) for name, base in named]
    return {price.model: price for price in found if price is not None}


def _listed(model: str, address: str) -> KnownPrice | None:
    """What the package says: the highest price of the day, for prompts of `PROMPT_TOKENS`."""
    if urlsplit(address).scheme != "https":
        return None
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    times = [midnight + timedelta(minutes=30 * number) for number in range(_HALF_HOURS)]
    offers = {offer for time in times if (offer := _offer(model, address, time)) is not None}
    if not offers:
        return None
    return KnownPrice(
        max(input for input, _ in offers),
        max(output for _, output in offers),
        model=model,
        source=f"{PACKAGE} {version(PACKAGE)}",
    )


def _offer(model: str, address: str, time: datetime) -> tuple[float, float] | None:
    """(input, output) in dollars for a million tokens at a time, where only tokens are paid for."""
    try:
        version(PACKAGE)
        from genai_prices import Usage, calc_price
    except (ImportError, PackageNotFoundError):
        return None
    usage = Usage(input_tokens=PROMPT_TOKENS, output_tokens=PROMPT_TOKENS)
    try:
        bill = calc_price(usage, model, provider_api_url=address, genai_request_timestamp=time)
    except (LookupError, ValueError):
        return None
    price = bill.model_price
    by_tokens = bill.input_price + bill.output_price == bill.total_price
    if price.input_mtok is None or price.output_mtok is None or not by_tokens:
        return None
    if bill.provider.id in _OWN_SERVERS:
        return None
    million = 1_000_000
    return (
        float(bill.input_price * million / PROMPT_TOKENS),
        float(bill.output_price * million / PROMPT_TOKENS),
    )


def _dollars(amount: float) -> str:
    """At least two places, and no more than it takes.

    >>> _dollars(0.6), _dollars(0.075), _dollars(10)
    ('$0.60', '$0.075', '$10.00')
    """
    text = f"{amount:.6f}".rstrip("0")
    return f"${text.ljust(text.index('.') + 3, '0')}"
