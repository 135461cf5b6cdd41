"""What a name, an address and the environment say about an LM, before anything is sent."""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from irr.errors import ConfigurationError

__all__ = ["NO_KEY", "OPENAI_BASE", "LMSettings", "addresses", "resolve"]

OPENAI_BASE = "https://api.openai.com/v1"
# What servers that want no key are sent, since some want the header.
NO_KEY = "EMPTY"


@dataclass(frozen=True, slots=True)
class LMSettings:
    """How to reach an LM.

    `name` is ``openai/MODEL`` or, with `api_base`, the name under which the server has the model.
    `api_base` may be several addresses separated by commas, all with the same model. `timeout` is
    the longest wait for the next byte of a reply, in seconds; `max_in_flight` the most requests
    at once: how many are really sent at once is found out below it. `max_tokens` bounds a reply
    and `temperature` its randomness; None leaves both to the server (reasoning models of OpenAI
    accept nothing else).
    """

    name: str
    api_base: str | None = None
    timeout: float = 120.0
    max_in_flight: int = 32
    max_tokens: int | None = 1024
    temperature: float | None = 0.0


def resolve(settings: LMSettings) -> tuple[str, str, str]:
    """(address or addresses, model, key) of an LM.

    Raises:
        ConfigurationError: the name fits no LM, an address is none, or a key is missing.
    """
    provider, slash, rest = settings.name.partition("/")
    base = settings.api_base or os.environ.get("OPENAI_BASE_URL")
    if slash and provider == "vllm":
        raise ConfigurationError(
            f"{settings.name!r} needs a server: use irr.build.serving, which starts one, or run "
            f"'vllm serve {rest}' and ask for {rest!r} at http://127.0.0.1:8000/v1"
        )
    if base is not None:
        for address in addresses(base):
            _check_address(address)
    model = rest if provider == "openai" and slash else settings.name
    if base is None and not (provider == "openai" and slash):
        raise ConfigurationError(
            f"unknown LM {settings.name!r}: use none, openai/MODEL, or the model's name together "
            "with --api-base URL for a local vLLM or another OpenAI-compatible server"
        )
    if not model:
        raise ConfigurationError(f"--lm {settings.name!r} names no model: write openai/MODEL")
    return base or OPENAI_BASE, model, _key(settings.name, needed=base is None)


def addresses(base: str) -> list[str]:
    """The addresses in a list separated by commas, without repeats and closing slashes.

    >>> addresses("http://a/v1/, http://b/v1,http://a/v1")
    ['http://a/v1', 'http://b/v1']
    """
    return list(dict.fromkeys(part.strip().rstrip("/") for part in base.split(",")))


def _check_address(base: str) -> None:
    parts = urlsplit(base)
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError(
            "--api-base holds a user name or password, which would show in messages: leave them "
            "out, and give a key as OPENAI_API_KEY"
        )
    try:
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or any(char.isspace() for char in base):
        raise ConfigurationError(
            f"--api-base {base!r} is no address: it begins with http:// or https:// "
            "and usually ends with /v1"
        )


def _key(name: str, *, needed: bool) -> str:
    """The key from the environment. Messages never quote it."""
    for variable in ("IRR_API_KEY", "OPENAI_API_KEY"):
        key = os.environ.get(variable, "").strip()
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigurationError(
                f"{variable} holds a character that no key has (a line break or blank inside, or "
                "one that is not ASCII): set it again"
            )
        if key:
            return key
    if needed:
        raise ConfigurationError(
            f"no key for {name!r}: set OPENAI_API_KEY in the environment "
            "(or --api-base for a server of your own)"
        )
    return NO_KEY
