"""Tasks: the evaluation sets that `irr` knows, one TOML file each, read from ``eval/tasks``.

In: the name of a shipped task (``house``, ``techwolf``, ``biodex``, …) or the path of a user's own
file. Out: `Task`, which says where the data comes from and how it is prepared, which prepared
files to score, with which prompts and metrics, and what others have published. The data itself is
never shipped: `task_files` finds it where a script of ``eval/`` has put it, or says how to.
"""

from __future__ import annotations

import difflib
import os
import shlex
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from irr.errors import ConfigurationError, InputError
from irr.prompts import shipped_prompts

__all__ = [
    "Published",
    "Task",
    "hub_rows",
    "published_rows",
    "read_task",
    "shipped_tasks",
    "task_files",
]

_REQUIRED = {
    "title",
    "source",
    "datasets",
    "licence",
    "references",
    "prepare",
    "folder",
    "labels",
    "prompts",
    "metrics",
    "split",
    "splits",
}
_OPTIONAL = {"priors", "train", "published"}
_LISTS = {"datasets", "references", "metrics"}
_FIGURE = {"system", "split", "scores", "fine_tuned", "source"}
# Stands in `prepare` for the folder that the script writes to.
_OUTPUT = "{output}"


@dataclass(frozen=True, slots=True)
class Published:
    """What others report: scores in percent by metric name, on `split`, and where they say so."""

    system: str
    split: str
    scores: dict[str, float]
    fine_tuned: bool
    source: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """An evaluation set. `name` is the file's stem.

    `folder` holds the prepared files within a data folder (tasks may share one); `labels`,
    `priors`, `train` and the values of `splits` are names in it. `split` is the one that is
    scored unless another is asked for.
    """

    name: str
    title: str
    source: str
    datasets: tuple[str, ...]
    licence: str
    references: tuple[str, ...]
    prepare: str
    folder: str
    labels: str
    prompts: str
    metrics: tuple[str, ...]
    split: str
    splits: dict[str, str]
    priors: str | None = None
    train: str | None = None
    published: tuple[Published, ...] = ()


def shipped_tasks() -> dict[str, Path]:
    """The tasks that come with `irr`, by name."""
    paths = sorted(_folder().glob("*.toml"), key=lambda path: path.stem)
    return {path.stem: path for path in paths}


def read_task(name: str | Path) -> Task:
    """Read a shipped task by name, or a file by path.

    Raises:
        ConfigurationError: no shipped task has that name and no such file exists.
        InputError: the file cannot be read, is not TOML, lacks a key or has one that is not known,
            or a value is not what it should be.
    """
    shipped = shipped_tasks()
    path = shipped.get(str(name), Path(name))
    if not path.is_file():
        near = difflib.get_close_matches(str(name), shipped, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"give one of {', '.join(shipped)}"
        raise ConfigurationError(f"no task named {str(name)!r}: {hint}, or a TOML file's path")
    return _task(path, _read(path))


def task_files(
    task: Task, data: str | Path | None = None, *, split: str | None = None
) -> dict[str, Path]:
    """Find the prepared files of a task: ``labels``, ``input``, and where they exist the others.

    Args:
        task: the task.
        data: the data folder, with a folder `task.folder` in it, or that folder itself. None for
            ``$IRR_DATA``, and where that is not set ``data`` in the user's cache.
        split: which of `task.splits` is the input; None for `task.split`.

    Returns:
        Paths by ``labels`` and ``input``, and ``priors`` and ``train`` where the task has them and
        the preparation made them.

    Raises:
        ConfigurationError: the task has no such split.
        InputError: labels or input are missing; says which command makes them.
    """
    wanted = split or task.split
    if wanted not in task.splits:
        known = ", ".join(task.splits)
        raise ConfigurationError(f"the task {task.name} has no split {wanted!r}: give {known}")
    folder = _prepared_folder(task, Path(data) if data is not None else _data_root())
    found = {"labels": folder / task.labels, "input": folder / task.splits[wanted]}
    for path in found.values():
        if not path.is_file():
            raise _not_prepared(task, path)
    extra = {"priors": task.priors, "train": task.train}
    paths = {key: folder / name for key, name in extra.items() if name is not None}
    return found | {key: path for key, path in paths.items() if path.is_file()}


def published_rows(task: Task, metrics: Sequence[str] | None = None) -> list[list[str]]:
    """The published figures as rows of a table: system, a score for each metric, split, source.

    A score that is not reported is "-"; what is fine-tuned says so.

    Args:
        task: the task.
        metrics: names of the columns; None for the task's own.
    """
    columns = task.metrics if metrics is None else metrics
    return [
        [
            figure.system + (" (fine-tuned)" if figure.fine_tuned else ""),
            *(_cell(figure.scores.get(name)) for name in columns),
            figure.split,
            figure.source + (f" ({figure.note})" if figure.note else ""),
        ]
        for figure in task.published
    ]


def hub_rows(dataset: str, split: str, config: str | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a data set of the Hugging Face hub, downloaded on first use.

    Raises:
        ConfigurationError: the package ``datasets`` is not installed.
        InputError: the data set cannot be had: no network, no such name or split.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise ConfigurationError(
            f"to download {dataset}, pip install datasets; or give a local folder with --source"
        ) from None
    load: Callable[..., Any] = load_dataset
    try:
        rows = load(dataset, config, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(
            f"cannot be downloaded ({reason}): give a local folder with --source",
            path=f"{dataset}:{split}",
        ) from None
    yield from rows


def _folder() -> Path:
    """The folder of shipped tasks: inside the package when installed, beside it in a clone."""
    package = Path(__file__).parents[1]
    installed = package / "_tasks"
    return installed if installed.is_dir() else package.parent / "eval" / "tasks"


def _data_root() -> Path:
    if chosen := os.environ.get("IRR_DATA"):
        return Path(chosen).expanduser()
    from irr.cache import cache_root

    return cache_root() / "data"


def _prepared_folder(task: Task, data: Path) -> Path:
    inside = data / task.folder
    return data if not inside.is_dir() and (data / task.labels).is_file() else inside


def _not_prepared(task: Task, path: Path) -> InputError:
    command = task.prepare.replace(_OUTPUT, shlex.quote(str(path.parent)))
    return InputError(
        f"no such file: the task {task.name} is not prepared; in a clone of irr run: {command} "
        "(or say with --data or IRR_DATA where its files are)",
        path=path,
    )


def _cell(score: float | None) -> str:
    return "-" if score is None else f"{score:.1f}"


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", path=path) from error
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8: {error.reason} at byte {error.start}", path=path) from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"not valid TOML: {error}", path=path) from None


def _task(path: Path, table: dict[str, Any]) -> Task:
    _check_keys(table, _REQUIRED, _OPTIONAL, "", path)
    figures = table.get("published", [])
    if not isinstance(figures, list):
        raise InputError("'published' must be tables: write [[published]]", path=path)
    values: dict[str, Any] = {
        key: (_texts if key in _LISTS else _text)(table, key, path)
        for key in table.keys() - {"splits", "published"}
    }
    values["splits"] = _splits(table, path)
    values["published"] = tuple(_figure(figure, path) for figure in figures)
    task = Task(name=path.stem, **values)
    _check_values(task, path)
    return task


def _check_values(task: Task, path: Path) -> None:
    if task.split not in task.splits:
        raise InputError(f"'split' is {task.split!r}, which [splits] does not have", path=path)
    if _OUTPUT not in task.prepare:
        raise InputError(f"'prepare' must name the folder it writes to: {_OUTPUT}", path=path)
    if not task.metrics:
        raise InputError("'metrics' names no metric", path=path)
    known = shipped_prompts()
    if task.prompts not in known:
        near = difflib.get_close_matches(task.prompts, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"give one of {', '.join(known)}"
        raise InputError(f"'prompts' is {task.prompts!r}: {hint}", path=path)


def _figure(table: object, path: Path) -> Published:
    if not isinstance(table, dict):
        raise InputError("'published' must be tables: write [[published]]", path=path)
    _check_keys(table, _FIGURE, {"note"}, "published.", path)
    scores = table["scores"]
    if not isinstance(scores, dict) or not scores or not all(map(_is_percent, scores.values())):
        raise InputError("'published.scores' must be percentages by metric name", path=path)
    if not isinstance(table["fine_tuned"], bool):
        raise InputError("'published.fine_tuned' must be true or false", path=path)
    texts = {key: _text(table, key, path) for key in ("system", "split", "source")}
    note = _text(table, "note", path) if "note" in table else ""
    numbers = {name: float(score) for name, score in scores.items()}
    return Published(scores=numbers, fine_tuned=table["fine_tuned"], note=note, **texts)


def _is_percent(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 100


def _splits(table: dict[str, Any], path: Path) -> dict[str, str]:
    splits = table["splits"]
    if not isinstance(splits, dict) or not splits:
        raise InputError("'splits' must be a table of split = file: write [splits]", path=path)
    return {name: _text(splits, name, path) for name in splits}


def _text(table: dict[str, Any], key: str, path: Path) -> str:
    value = table[key]
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{key!r} must be a text that is not empty", path=path)
    return value.strip()


def _texts(table: dict[str, Any], key: str, path: Path) -> tuple[str, ...]:
    values = table[key]
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InputError(f"{key!r} must be a list of texts", path=path)
    return tuple(values)


def _check_keys(
    table: dict[str, Any], required: set[str], optional: set[str], prefix: str, path: Path
) -> None:
    known = required | optional
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean '{prefix}{near[0]}'?" if near else f"known: {sorted(known)}"
            raise InputError(f"unknown key '{prefix}{key}'; {hint}", path=path)
    missing = sorted(required - set(table))
    if missing:
        raise InputError(f"missing key '{prefix}{missing[0]}'", path=path)
