"""PyPI's classifiers and the packages installed here → a label set with gold, without download.

Out: labels.jsonl {"id", "name", "parents"}: the classifiers of the package trove-classifiers;
     installed.jsonl {"id", "text", "labels"}: a document for each package of this environment,
     its summary and the first paragraphs of prose of its description; gold: the classifiers that
     its authors gave it. In the order of the packages' names.

Noisy: what a package is licensed under or which Python it runs on is gold as well, and can seldom
be read off a description. Another environment gives other documents.

    python eval/prepare_trove.py --output DIR
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from email.message import Message
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import cast

from preparation import parser, report, run, write_jsonl

from irr.errors import ConfigurationError

SEPARATOR = " :: "
PARAGRAPHS = 3
MOST_CHARACTERS = 2000
# Headings, badges, images, links, tables, directives, code: no prose begins like this.
_NO_PROSE = re.compile(r"[#=\-*_~^`|<!\[.:>+]|\d+\.\s")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)|`([^`<]+)\s*<[^>]*>`_+")
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)


def read_classifiers() -> list[str]:
    """The classifiers that are not deprecated, sorted."""
    try:
        from trove_classifiers import classifiers
    except ImportError:
        message = "trove-classifiers is not installed: pip install trove-classifiers"
        raise ConfigurationError(message) from None
    return sorted(classifiers)


def label_row(classifier: str, known: set[str]) -> dict[str, object]:
    """A classifier as a label, below the next broader one that is a classifier itself."""
    parts = classifier.split(SEPARATOR)
    broader = (SEPARATOR.join(parts[:size]) for size in range(len(parts) - 1, 0, -1))
    parent = next((name for name in broader if name in known), None)
    return {"id": classifier, "name": classifier, "parents": [parent] if parent else []}


def prose(description: str) -> str:
    """The first paragraphs of a description in Markdown or reStructuredText that are prose."""
    text = _FENCE.sub("", description.replace("\r\n", "\n"))
    paragraphs = (_paragraph(block) for block in re.split(r"\n\s*\n", text))
    first = [paragraph for paragraph in paragraphs if paragraph][:PARAGRAPHS]
    return "\n\n".join(first)[:MOST_CHARACTERS]


def _paragraph(block: str) -> str:
    """A block on one line, without links' targets; empty where it is no prose."""
    lines = block.splitlines()
    underlined = len(lines) > 1 and re.fullmatch(r"([^\w\s])\1*\s*", lines[1])
    if underlined or not lines or lines[0].startswith((" ", "\t")) or _NO_PROSE.match(lines[0]):
        return ""
    return " ".join(_LINK.sub(r"\1\2", " ".join(lines)).split())


def document_row(package: Distribution) -> dict[str, object]:
    """A package as a document; its text or its labels may be empty."""
    metadata = cast(Message, package.metadata)
    name, summary = str(metadata["Name"]), str(metadata.get("Summary") or "").strip()
    description = metadata.get("Description") or metadata.get_payload()
    parts = [summary if summary != "UNKNOWN" else "", prose(str(description or ""))]
    labels = dict.fromkeys(metadata.get_all("Classifier") or ())
    return {"id": name, "text": "\n\n".join(filter(None, parts)), "labels": list(labels)}


def installed() -> Iterator[Distribution]:
    """The packages of the environment, each once, by name."""
    found: dict[str, Distribution] = {}
    for package in distributions():
        name = package.metadata["Name"]
        if name:  # A broken installation has none.
            # The first on the path is the one that is imported.
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), package)
    return (package for _, package in sorted(found.items()))


def prepare(output: Path, packages: Iterable[Distribution]) -> None:
    """Writes the labels, and a document for each package that has a text and classifiers."""
    classifiers = read_classifiers()
    known = set(classifiers)
    rows = [document_row(package) for package in packages]
    documents = [row for row in rows if row["text"] and row["labels"]]
    output.mkdir(parents=True, exist_ok=True)
    write_jsonl(output / "labels.jsonl", (label_row(name, known) for name in classifiers))
    # An old description may hold bytes that are no UTF-8.
    write_jsonl(output / "installed.jsonl", documents, errors="replace")
    report(
        f"{len(classifiers)} labels, {len(documents)} documents in {output}; left out "
        f"{len(rows) - len(documents)} packages without a text or classifiers"
    )
    gold = Counter(label for row in documents for label in _labels(row) if label not in known)
    for label, count in gold.most_common():
        report(f"gold label not in the label set, kept: {label!r}, {count} documents")


def _labels(row: Mapping[str, object]) -> list[str]:
    labels = row["labels"]
    assert isinstance(labels, list)
    return labels


def main(argv: Sequence[str] | None = None) -> int:
    given = parser(__doc__).parse_args(argv)
    return run(lambda: prepare(given.output, installed()), given.output)


if __name__ == "__main__":
    sys.exit(main())
