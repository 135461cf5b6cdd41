from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from datetime import UTC, time
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path

import pytest
from genai_prices.data_snapshot import DataSnapshot, set_custom_snapshot
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    Provider,
    Tier,
    TieredPrices,
    TimeOfDateConstraint,
)

from irr.errors import ConfigurationError
from irr.prices import PROMPT_TOKENS, KnownPrice, known_prices, price_of


def dollars(price: KnownPrice | None) -> tuple[float, float] | None:
    return None if price is None else (price.input, price.output)


def model(name: str, prices: ModelPrice | list[ConditionalPrice]) -> ModelInfo:
    return ModelInfo(id=name, match=ClauseEquals(name), prices=prices)


PLAIN = ModelPrice(
    input_mtok=Decimal("0.15"), cache_read_mtok=Decimal("0.01"), output_mtok=Decimal("0.6")
)


@pytest.fixture
def listed() -> Iterator[list[ModelInfo]]:
    """The models that the package knows of OpenAI, in this test."""
    models = [model("small", PLAIN)]
    providers = [
        Provider(id="openai", name="", api_pattern=r"https://api\.openai\.com", models=models),
        Provider(id="other", name="", api_pattern=r"https://api\.other\.example", models=models),
        Provider(id="modal", name="", api_pattern=r"https://[^/]+\.modal\.run", models=models),
    ]
    set_custom_snapshot(DataSnapshot(providers=providers, from_auto_update=False))
    yield models
    set_custom_snapshot(None)


@pytest.fixture
def prices_file(tmp_path: Path) -> Path:
    path = tmp_path / "prices.json"
    table = {"small": {"input": 1, "output": 2}, "openai/large": {"input": 3, "output": 4}}
    path.write_text(json.dumps(table), encoding="utf-8")
    return path


@pytest.mark.parametrize(("name", "price"), [("openai/small", (1, 2)), ("openai/large", (3, 4))])
def test_the_users_file_comes_first_with_or_without_the_prefix(
    prices_file: Path, listed: list[ModelInfo], name: str, price: tuple[float, float]
) -> None:
    assert dollars(price_of(name, prices_file=prices_file)) == price


def test_what_the_file_leaves_out_is_taken_from_the_package(
    tmp_path: Path, listed: list[ModelInfo]
) -> None:
    path = tmp_path / "prices.json"
    path.write_text("{}", encoding="utf-8")
    assert dollars(price_of("openai/small", prices_file=path)) == (0.15, 0.6)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no prices"):
        price_of("openai/small", prices_file=tmp_path / "none.json")


def test_the_package_ships_prices_of_openai() -> None:
    price = price_of("openai/gpt-4o-mini")
    assert price is not None
    assert (price.model, price.source) == ("gpt-4o-mini", f"genai-prices {version('genai-prices')}")
    assert 0 < price.input < price.output


def test_input_that_is_cached_is_reckoned_at_the_plain_price(listed: list[ModelInfo]) -> None:
    assert dollars(price_of("openai/small")) == (0.15, 0.6)


@pytest.mark.parametrize("name", ["openai/smaller", "openai/ft:small:us::1", "small"])
def test_no_price_is_guessed_for_a_model(listed: list[ModelInfo], name: str) -> None:
    assert price_of(name) is None


@pytest.mark.parametrize(
    ("address", "price"),
    [
        ("https://api.openai.com/v1", (0.15, 0.6)),
        ("https://api.other.example/v1", (0.15, 0.6)),
        ("http://127.0.0.1:8000/v1", None),
        ("http://api.openai.com/v1", None),
        ("https://mine.modal.run/v1", None),
        ("https://api.openai.com/v1,http://127.0.0.1:8000/v1", None),
        ("https://api.openai.com/v1, https://api.other.example/v1", (0.15, 0.6)),
    ],
)
def test_only_known_addresses_have_a_price(
    listed: list[ModelInfo], address: str, price: tuple[float, float] | None
) -> None:
    assert dollars(price_of("small", api_base=address)) == price


def test_the_environments_address_counts_as_for_the_lm(
    listed: list[ModelInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
    assert price_of("openai/small") is None


def test_a_price_by_length_is_that_of_a_long_prompt(listed: list[ModelInfo]) -> None:
    steps = [Tier(PROMPT_TOKENS - 1, Decimal(2)), Tier(PROMPT_TOKENS, Decimal(8))]
    tiered = TieredPrices(Decimal(1), steps)
    listed.append(model("tiered", ModelPrice(input_mtok=tiered, output_mtok=Decimal(5))))
    assert dollars(price_of("openai/tiered")) == (2, 5)


def test_a_price_by_the_hour_is_the_highest_of_the_day(listed: list[ModelInfo]) -> None:
    night = TimeOfDateConstraint(time(3, 0, tzinfo=UTC), time(3, 30, tzinfo=UTC))
    dear = ModelPrice(input_mtok=Decimal(7), output_mtok=Decimal(9))
    prices = [ConditionalPrice(prices=PLAIN), ConditionalPrice(night, prices=dear)]
    listed.append(model("hourly", prices))
    assert dollars(price_of("openai/hourly")) == (7, 9)


@pytest.mark.parametrize(
    "prices",
    [
        ModelPrice(input_mtok=Decimal(1)),
        ModelPrice(output_mtok=Decimal(1)),
        ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(1), requests_kcount=Decimal(5)),
    ],
)
def test_a_price_that_is_not_by_tokens_alone_is_unknown(
    listed: list[ModelInfo], prices: ModelPrice
) -> None:
    listed.append(model("odd", prices))
    assert price_of("openai/odd") is None


def test_without_the_package_only_the_file_counts(
    prices_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    assert price_of("openai/gpt-4o-mini") is None
    assert dollars(price_of("openai/small", prices_file=prices_file)) == (1, 2)


def test_nothing_is_looked_up_in_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert price_of("openai/gpt-4o-mini") is not None


def test_the_line_says_price_and_source() -> None:
    price = KnownPrice(0.075, 0.6, model="small", source="prices.json")
    assert str(price) == "small: $0.075 in, $0.60 out per million tokens (prices.json)"


def test_known_prices_are_named_as_a_ledger_wants_them(listed: list[ModelInfo]) -> None:
    lms = [("openai/small", None), ("none", None), ("own", "http://127.0.0.1:8000/v1")]
    assert {name: dollars(price) for name, price in known_prices(lms).items()} == {
        "small": (0.15, 0.6)
    }
