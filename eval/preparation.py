"""What the scripts prepare_*.py share: --output, errors as one line, the files that they write.

In: rows and priors. Out: JSON lines and JSON in the folder --output, counts on standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Container, Iterable, Mapping
from pathlib import Path

from irr.errors import IrrError, OutputError


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser described by the first line of the script's docstring, with --output."""
    made = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    made.add_argument("--output", type=Path, required=True, help="folder to write to")
    return made


def run(prepare: Callable[[], None], output: Path) -> int:
    """Prepares; a foreseen failure is one line and an exit status."""
    failure: IrrError
    try:
        prepare()
    except IrrError as error:
        failure = error
    except OSError as error:
        # Reading has errors of its own: this one is from writing.
        failure = OutputError(f"cannot write to {output}: {error.strerror or error}")
    else:
        return 0
    report(f"error: {failure}")
    return failure.exit_status


def report(message: str) -> None:
    """Tells a person, on standard error."""
    print(message, file=sys.stderr)


def write_jsonl(
    path: Path, rows: Iterable[Mapping[str, object]], *, errors: str = "strict"
) -> None:
    """One JSON object a line, UTF-8; `errors` is that of `str.encode`."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8", errors=errors, newline="\n")


def write_priors(path: Path, priors: Mapping[str, float], known: Container[str]) -> None:
    """One JSON object of label → prior, of the labels in `known`; the others are counted."""
    kept = {name: prior for name, prior in priors.items() if name in known}
    text = json.dumps(kept, ensure_ascii=False, indent=0) + "\n"
    path.write_text(text, encoding="utf-8", newline="\n")
    dropped = len(priors) - len(kept)
    report(f"{path.name}: {len(kept)} priors; {dropped} dropped: not in the labels")
