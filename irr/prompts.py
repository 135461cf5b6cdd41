"""Prompts: the wording of Infer and Rank for a domain, read from ``prompts/*.toml``.

In: the name of a shipped file (``generic``, ``esco``, ``biodex``) or a path to one of the user's.
Out: `Prompts`, plain text by stage and field. The signatures that DSPy works with are made from
it in `irr.adapter`, so reading prompts needs no DSPy.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from pathlib import Path

from irr.errors import ConfigurationError, PromptError

__all__ = ["DEFAULT_PROMPTS", "Prompts", "StagePrompt", "read_prompts", "shipped_prompts"]

DEFAULT_PROMPTS = "generic"

# Input fields first, in the order in which they stand in the prompt; the last is the output.
STAGE_FIELDS = {"infer": ("text", "guesses"), "rank": ("text", "candidates", "ranking")}


@dataclass(frozen=True, slots=True)
class StagePrompt:
    """The wording of one stage: its instructions, and a description for each of its fields."""

    instructions: str
    fields: dict[str, str]


@dataclass(frozen=True, slots=True)
class Prompts:
    """The wording of a domain. `name` is the file's stem."""

    name: str
    infer: StagePrompt
    rank: StagePrompt


def shipped_prompts() -> dict[str, Path]:
    """The prompts that come with `irr`, by name."""
    return {path.stem: path for path in sorted(_folder().glob("*.toml"))}


def read_prompts(name: str | Path = DEFAULT_PROMPTS) -> Prompts:
    """Read shipped prompts by name, or a file by path.

    Raises:
        ConfigurationError: no shipped prompts have that name and no such file exists.
        PromptError: the file cannot be read or is a folder; it is not TOML, or lacks a key, or
            has one that is not known.
    """
    shipped = shipped_prompts()
    path = shipped.get(str(name), Path(name))
    try:
        if path.is_dir():
            raise PromptError("is a folder: give a TOML file in it", path=path)
        if not path.is_file():
            raise ConfigurationError(
                f"no prompts named {str(name)!r}: give one of {', '.join(shipped)}, "
                "or the path of a TOML file with the same keys"
            )
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        message = f"cannot be read: {error.strerror or error}: check the path and its permissions"
        raise PromptError(message, path=path) from error
    except UnicodeDecodeError as error:
        raise PromptError(f"not UTF-8: {error.reason} at byte {error.start}", path=path) from None
    except tomllib.TOMLDecodeError as error:
        raise PromptError(f"not valid TOML: {error}", path=path) from None
    _check_keys(table, set(STAGE_FIELDS), "", path)
    stages = {stage: _stage(stage, table[stage], path) for stage in STAGE_FIELDS}
    return Prompts(name=path.stem, infer=stages["infer"], rank=stages["rank"])


def _folder() -> Path:
    """The folder of shipped prompts: inside the package when installed, beside it in a clone."""
    package = Path(__file__).parent
    installed = package / "_prompts"
    return installed if installed.is_dir() else package.parent / "prompts"


def _stage(stage: str, table: object, path: Path) -> StagePrompt:
    if not isinstance(table, dict):
        raise PromptError(f"{stage!r} must be a table: write [{stage}]", path=path)
    _check_keys(table, {"instructions", *STAGE_FIELDS[stage]}, f"{stage}.", path)
    for key, value in table.items():
        if not isinstance(value, str) or not value.strip():
            raise PromptError(f"'{stage}.{key}' must be a text that is not empty", path=path)
    fields = {key: table[key].strip() for key in STAGE_FIELDS[stage]}
    return StagePrompt(instructions=table["instructions"].strip(), fields=fields)


def _check_keys(table: dict[str, object], known: set[str], prefix: str, path: Path) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean '{prefix}{near[0]}'?" if near else f"known: {sorted(known)}"
            raise PromptError(f"unknown key '{prefix}{key}'; {hint}", path=path)
    missing = sorted(known - set(table))
    if missing:
        raise PromptError(f"missing key '{prefix}{missing[0]}'", path=path)
