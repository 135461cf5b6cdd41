"""What is in a file of labels: counts, languages, hierarchy, doubtful places.

In: a `Vocabulary`. Out: a `Survey`, and the page that `irr labels FILE` prints of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TextIO

from irr.labels import complaint
from irr.types import Label
from irr.vocabularies import FORMATS, Vocabulary
from irr.vocabularies.concept import Concept
from irr.vocabularies.problems import visible

__all__ = ["HierarchyCounts", "Survey", "hierarchy_of", "print_survey", "survey", "warnings_of"]

_EXAMPLES = 4
_MOST_NAMED = 5
_LONGEST_TEXT = 300


@dataclass(frozen=True)
class HierarchyCounts:
    """How labels hang together by their parents, of which only those in the set count.

    `irr.hierarchy.Hierarchy` needs numpy, without which `irr labels` starts; this needs none.

    `depth` is the number of levels, the longest way up that meets no label twice; `missing` the
    ids of parents that are not in the set; `cycles` the ways that come back to where they began.
    """

    with_parents: int
    roots: int
    leaves: int
    depth: int
    missing: Counter[str]
    cycles: list[tuple[str, ...]]


@dataclass
class Survey:
    """What `survey` found. `languages` counts names; `examples` are spread over the file."""

    labels: list[Label] = field(default_factory=list)
    languages: Counter[str] = field(default_factory=Counter)
    hidden_names: int = 0
    notations: int = 0
    same_names: dict[str, list[str]] = field(default_factory=dict)
    examples: list[tuple[Concept, Label]] = field(default_factory=list)


def survey(vocabulary: Vocabulary, language: str | None = None) -> Survey:
    """Go through a vocabulary once; what is wrong with a label goes to its `problems`.

    Labels with an empty id or name, or an id that came before, are reported and left out.
    """
    found = Survey()
    lines: dict[str, int | None] = {}
    by_name: dict[str, str] = {}
    step = 1
    for concept, label in vocabulary.labelled(language):
        if not label.name or not label.id or label.id in lines:
            line = lines.get(label.id)
            earlier = f"line {line}" if line else "another label"
            vocabulary.problems.error(complaint(label, earlier), concept.line)
            continue
        lines[label.id] = concept.line
        if len(found.labels) % step == 0:
            found.examples.append((concept, label))
            if len(found.examples) == 2 * _EXAMPLES:
                found.examples, step = found.examples[::2], 2 * step
        found.labels.append(label)
        found.languages.update(tag for tag, _ in concept.names)
        found.hidden_names += len(concept.hidden_names)
        found.notations += bool(concept.notations)
        first = by_name.setdefault(label.name, label.id)
        if first != label.id:
            found.same_names.setdefault(label.name, [first]).append(label.id)
    found.examples = found.examples[:: -(-len(found.examples) // _EXAMPLES) or 1]
    return found


def hierarchy_of(labels: Sequence[Label]) -> HierarchyCounts:
    """Look at the parents of labels with unique ids."""
    places = {label.id: place for place, label in enumerate(labels)}
    missing = Counter(p for label in labels for p in label.parents if p not in places)
    parents = [[places[p] for p in label.parents if p in places] for label in labels]
    above = {parent for chain in parents for parent in chain}
    depths, cycles = _depths(parents)
    return HierarchyCounts(
        with_parents=sum(map(bool, parents)),
        roots=sum(not chain for chain in parents),
        leaves=len(labels) - len(above),
        depth=max(depths, default=0),
        missing=missing,
        cycles=[tuple(labels[place].id for place in cycle) for cycle in cycles],
    )


def _depths(parents: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """The level of each label, 1 at the top, and the cycles, by a walk in depth."""
    depths = [0] * len(parents)
    cycles: list[list[int]] = []
    for start in range(len(parents)):
        if depths[start]:
            continue
        way, on_way = [start], {start: 0}
        left = [iter(parents[start])]
        while way:
            parent = next(left[-1], None)
            if parent is None:
                place = way.pop()
                left.pop()
                known = (depths[p] for p in parents[place] if p not in on_way)
                depths[place] = 1 + max(known, default=0)
                del on_way[place]
            elif parent in on_way:
                cycles.append([*way[on_way[parent] :], parent])
            elif not depths[parent]:
                on_way[parent] = len(way)
                way.append(parent)
                left.append(iter(parents[parent]))
    return depths, cycles


def print_survey(
    found: Survey, hierarchy: HierarchyCounts, vocabulary: Vocabulary, stream: TextIO
) -> None:
    """Print the page: folded to the terminal where there is one, else a row a line."""
    form = FORMATS.get(vocabulary.format, vocabulary.format)
    blocks = [
        (visible(f"{vocabulary.problems.path}: {form}"), list(_counts(found, hierarchy))),
        *(
            (f"example {number}", list(_fields(concept, label)))
            for number, (concept, label) in enumerate(found.examples, start=1)
        ),
    ]
    for title, rows in blocks:
        filled = [(name, _cut(visible(value))) for name, value in rows if value]
        if stream.isatty():
            _print_folded(title, filled, stream)
        else:
            width = max((len(name) for name, _ in filled), default=0)
            lines = [f"  {name:{width}}  {value}" for name, value in filled]
            stream.write("\n".join([title, *lines, "", ""]))


def warnings_of(found: Survey, hierarchy: HierarchyCounts, vocabulary: Vocabulary) -> Iterator[str]:
    """Say what is doubtful but can be used, a line each."""
    yield from map(visible, _warnings(found, hierarchy, vocabulary))


def _warnings(found: Survey, hierarchy: HierarchyCounts, vocabulary: Vocabulary) -> Iterator[str]:
    path = vocabulary.problems.path
    yield from vocabulary.problems.warnings()
    if found.same_names:
        name, ids = next(iter(found.same_names.items()))
        first = f"{_cut(name)!r} is that of {_cut(', '.join(ids[:_MOST_NAMED]))}"
        yield f"{path}: {len(found.same_names):,} names are those of several labels: {first}"
    if hierarchy.missing:
        named = _cut(", ".join(list(hierarchy.missing)[:_MOST_NAMED]))
        yield f"{path}: {len(hierarchy.missing):,} parents are not among the labels: {named}"
    if hierarchy.cycles:
        ways = _cut("; ".join(" > ".join(cycle) for cycle in hierarchy.cycles[:_MOST_NAMED]))
        yield f"{path}: {len(hierarchy.cycles):,} cycles of parents: {ways}"


def _counts(found: Survey, hierarchy: HierarchyCounts) -> Iterator[tuple[str, str]]:
    labels = found.labels
    alternatives = sum(len(label.alternative_names) for label in labels)
    named = sum(bool(label.alternative_names) for label in labels)
    yield "labels", f"{len(labels):,}"
    hidden = f", {found.hidden_names:,} hidden" if found.hidden_names else ""
    yield "alternative names", f"{alternatives:,} of {named:,} labels{hidden}"
    yield "descriptions", f"{sum(bool(label.description) for label in labels):,}"
    if found.notations:
        yield "notations", f"{found.notations:,}"
    if hierarchy.with_parents:
        yield "with parents", f"{hierarchy.with_parents:,}"
        shape = f"{hierarchy.roots:,} at the top, {hierarchy.leaves:,} without narrower"
        yield "hierarchy", f"{hierarchy.depth} levels, {shape}"
    spoken = [(tag or "none", count) for tag, count in found.languages.most_common()]
    if any(found.languages):
        yield "languages", ", ".join(f"{tag} {count:,}" for tag, count in spoken)


def _fields(concept: Concept, label: Label) -> Iterator[tuple[str, str]]:
    yield "id", label.id
    yield "name", label.name
    others = [f"{text} ({tag})" for tag, text in concept.names if text != label.name]
    yield "other languages", "; ".join(others)
    yield "alternative names", "; ".join(label.alternative_names)
    yield "description", " ".join(label.description.split())
    yield "parents", ", ".join(label.parents)
    yield "notations", ", ".join(concept.notations)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "…"


def _print_folded(title: str, rows: Sequence[tuple[str, str]], stream: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(f"  {name}"), Text(value))
    console = Console(file=stream, highlight=False)
    console.print(Text(title, style="bold"), table, Text(""), sep="\n")
