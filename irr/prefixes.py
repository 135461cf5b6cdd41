"""What a model's authors want written before a text, by the part the text plays.

In: a model's name and folder. Out: its `Prefixes`. Many models for search were trained with one
prefix before queries and another before what queries look for, and lose much without them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from irr.errors import EncoderError

__all__ = ["Prefixes", "Role", "read_prefixes"]

Role = Literal["query", "target"]

CONFIGURATION = "config_sentence_transformers.json"
# The names that sentence-transformers gives to the prompts of the two parts.
QUERY_KEYS = ("query",)
TARGET_KEYS = ("document", "passage", "corpus")


@dataclass(frozen=True, slots=True)
class Prefixes:
    """What is written before a query, and before a target: something that queries look for."""

    query: str = ""
    target: str = ""

    def of(self, role: Role) -> str:
        """The prefix of one part."""
        return self.query if role == "query" else self.target


# Models whose prefixes stand in their cards alone: published before sentence-transformers kept
# prompts, and among the most used. Whole names, by any owner: models made from these have other
# names and may have been trained otherwise. BGE and GTE are left out, as they need no prefix for
# short texts; so are models with an instruction for each task, of which none is known to be ours.
KNOWN = (
    (
        re.compile(r"(multilingual-)?e5-(small|base|large)(-v2|-unsupervised)?", re.IGNORECASE),
        Prefixes("query: ", "passage: "),
    ),
    (
        re.compile(r"nomic-embed-text-v1(\.5)?(-unsupervised)?", re.IGNORECASE),
        Prefixes("search_query: ", "search_document: "),
    ),
)


def read_prefixes(name: str, folder: Path) -> Prefixes:
    """Read the prefixes of the model `name` in `folder`.

    They are the prompts for queries and for documents in its configuration; where it has neither,
    its default prompt for both; where it has no prompt at all, those of the card of a model of
    this name. A folder of another name, or a prompt in the configuration, keeps the latter away.

    Raises:
        EncoderError: the configuration cannot be read.
    """
    prompts, default = _configured(name, folder / CONFIGURATION)
    found = Prefixes(_first(prompts, QUERY_KEYS), _first(prompts, TARGET_KEYS))
    if found != Prefixes():
        return found
    if default:
        return Prefixes(default, default)
    last = Path(name).expanduser().name
    return next((known for pattern, known in KNOWN if pattern.fullmatch(last)), found)


def _configured(name: str, path: Path) -> tuple[dict[str, str], str]:
    """The prompts of a configuration, blank ones left out, and the default one or ""."""
    try:
        row: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}
        prompts = {key: str(text) for key, text in (row.get("prompts") or {}).items() if text}
        return prompts, prompts.get(row.get("default_prompt_name") or "", "")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise EncoderError(f"encoder '{name}': {path} is unreadable: {error}") from error


def _first(prompts: dict[str, str], keys: tuple[str, ...]) -> str:
    return next((prompts[key] for key in keys if key in prompts), "")
