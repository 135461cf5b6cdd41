"""Selections: what entries match, by brute force, and that an excluded label never comes out."""

from __future__ import annotations

import fnmatch
import inspect
import random
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import HashEncoder

from irr.errors import ConfigurationError, InputError
from irr.hierarchy import Hierarchy
from irr.index import LabelIndex
from irr.labels import LabelSet
from irr.retrieve import Retriever, RetrieveSettings
from irr.selection import Selection, Selector, read_selection, selection_of
from irr.types import Label

LABELS = LabelSet(
    [
        Label("A", "Infections"),
        Label("A1", "Cholera", parents=("A",)),
        Label("A1.0", "Cholera, classical", parents=("A1",)),
        Label("A2", "Typhoid fever", parents=("A",)),
        Label("F", "Fever"),
        Label("F1", "Dengue [fever]", parents=("F", "A")),
        Label("F2", "Cholera", parents=("F",)),
    ]
)


def selector(labels: LabelSet = LABELS) -> Selector:
    return Selector(labels, Hierarchy.of(labels))


def allowed(*selections: Selection) -> set[str]:
    return {LABELS[p].id for p in np.flatnonzero(selector().allowed(*selections))}


EVERY = set(LABELS.ids)


@pytest.mark.parametrize(
    ("entry", "matched"),
    [
        ("A1.0", {"A1.0"}),
        ("A1", {"A1", "A1.0"}),
        ("Infections", {"A", "A1", "A1.0", "A2", "F1"}),
        ("Cholera", {"A1", "A1.0", "F2"}),
        ("only:A", {"A"}),
        ("only:Cholera", {"A1", "F2"}),
        ("a?", {"A1", "A2"}),
        ("*FEVER", {"A2", "F"}),
        ("[fa]1", {"A1", "F1"}),
        ("Dengue [fever]", {"F1"}),
        ("re:^typhoid|dengue", {"A2", "F1"}),
        (r"re:\.\d", {"A1.0"}),
    ],
)
def test_what_an_entry_matches(entry: str, matched: set[str]) -> None:
    assert allowed(Selection(include=(entry,))) == matched
    assert allowed(Selection(exclude=(entry,))) == EVERY - matched


def test_exclusion_wins_over_inclusion() -> None:
    assert allowed(Selection(include=("A",), exclude=("A1",))) == {"A", "A2", "F1"}


def test_without_entries_every_label_is_allowed() -> None:
    assert allowed() == allowed(Selection()) == EVERY


def test_a_label_must_be_allowed_by_every_selection() -> None:
    of_run, of_request = Selection(exclude=("A1",)), Selection(include=("Cholera", "F"))
    assert allowed(of_run, of_request) == {"F", "F1", "F2"}


def test_a_mask_is_kept_and_cannot_be_changed() -> None:
    chooser = selector()
    mask = chooser.allowed(Selection(include=("A",)))
    assert chooser.allowed(Selection(include=("A",))) is mask
    with pytest.raises(ValueError, match="read-only"):
        mask[0] = False


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("Infectoins", r"'Infectoins': did you mean 'Infections'\?; patterns need \* or re:"),
        ("only:Infectoins", r"did you mean 'Infections'\?"),
        ("zzz*", "'zzz\\*' matches no label"),
        ("re:zzz", "'re:zzz' matches no label"),
        ("re:(", r"'re:\(' is no regular expression: missing \)"),
        ("@labels.txt", "no label has the id or name '@labels.txt'"),
    ],
)
def test_an_entry_without_match_is_an_error(entry: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        selector().allowed(Selection(exclude=(entry,)))


def test_a_selection_that_leaves_nothing_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="leaves no label"):
        selector().allowed(Selection(include=("F2",)), Selection(exclude=("F",)))


def test_a_file_of_entries(tmp_path: Path) -> None:
    file = tmp_path / "chosen.txt"
    file.write_text("F2\n\n re:^a1 \n")
    read = read_selection([f"@{file}", "F1"], ["A1.0"])
    assert read == Selection(("F2", "re:^a1", "F1"), ("A1.0",))
    assert allowed(read) == {"F2", "A1", "F1"}


def test_an_error_in_a_file_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "chosen.txt"
    file.write_text("A1\nDegnue\n")
    with pytest.raises(InputError, match=r"chosen.txt:2: no label has the id or name 'Degnue'"):
        selector().allowed(read_selection(exclude=[f"@{file}"]))
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(InputError, match="holds no entries"):
        read_selection([f"@{tmp_path / 'empty.txt'}"])
    with pytest.raises(InputError, match="does not exist"):
        read_selection([f"@{tmp_path / 'none.txt'}"])


def test_the_selection_of_a_request() -> None:
    row = {"text": "Fever.", "exclude": [" A1 ", "*fever*"]}
    assert allowed(selection_of(row)) == {"A"} | {"F2"}
    assert not selection_of({"text": "Fever.", "include": None})
    with pytest.raises(ConfigurationError, match="regular expressions are not taken here"):
        selector().allowed(selection_of({"include": ["re:.*"]}))
    for bad in ("A1", [1], [""]):
        with pytest.raises(ConfigurationError, match='"exclude" must be a list'):
            selection_of({"exclude": bad})


def drawn_labels(draw: random.Random, count: int = 200) -> LabelSet:
    """Labels of few words, each but the first below up to two before it."""
    words = ["iron", "copper", "tin", "gold", "lead", "zinc", "silver", "nickel"]
    labels = []
    for number in range(count):
        parents = {f"L{draw.randrange(number)}" for _ in range(draw.randrange(3)) if number}
        name = f"{' '.join(draw.sample(words, 2))} {number % 50}"
        labels.append(Label(f"L{number}", name, parents=tuple(sorted(parents))))
    return LabelSet(labels)


def matched_by_brute_force(labels: LabelSet, entry: str) -> set[int]:
    def is_at_or_below(place: int, tops: set[str]) -> bool:
        label = labels[place]
        above = (labels.ids.index(parent) for parent in label.parents)
        return label.id in tops or any(is_at_or_below(p, tops) for p in above)

    tops = {label.id for label in labels if entry in (label.id, label.name)}
    if tops:
        return {place for place in range(len(labels)) if is_at_or_below(place, tops)}
    texts = [(label.id.lower(), label.name.lower()) for label in labels]
    if entry.startswith("re:"):
        return {p for p, pair in enumerate(texts) if any(re.search(entry[3:], t) for t in pair)}
    if entry.startswith("only:"):
        return {p for p, label in enumerate(labels) if entry[5:] in (label.id, label.name)}
    return {p for p, pair in enumerate(texts) if any(fnmatch.fnmatchcase(t, entry) for t in pair)}


def drawn_requests(draw: random.Random, entries: list[str], count: int) -> list[Selection]:
    def some(most: int) -> tuple[str, ...]:
        return tuple(draw.sample(entries, draw.randint(0, most)))

    return [Selection(some(4), some(3)) for _ in range(count)]


def entries_of(labels: LabelSet, draw: random.Random) -> list[str]:
    places = draw.sample(range(len(labels)), 25)
    entries = [labels[p].id for p in places] + [labels[p].name for p in places]
    entries += [f"only:{labels[p].id}" for p in places]
    return [*entries, "*tin*", "iron*", "re:^gold", "re:(lead|zinc) \\d$", "l1?", "*[13579]"]


def test_ten_thousand_requests_are_as_by_brute_force() -> None:
    draw = random.Random(0)
    labels = drawn_labels(draw)
    entries = entries_of(labels, draw)
    by_entry = {entry: matched_by_brute_force(labels, entry) for entry in entries}
    chooser = selector(labels)
    empty = 0
    for request in drawn_requests(draw, entries, 10_000):
        included = set().union(*(by_entry[entry] for entry in request.include))
        excluded = set().union(*(by_entry[entry] for entry in request.exclude))
        expected = (included if request.include else set(range(len(labels)))) - excluded
        if not expected:
            empty += 1
            with pytest.raises(ConfigurationError, match="leaves no label"):
                chooser.allowed(request)
            continue
        assert set(np.flatnonzero(chooser.allowed(request)).tolist()) == expected
    assert empty < 2_000


@pytest.mark.skipif(
    "allowed" not in inspect.signature(Retriever.retrieve_many).parameters,
    reason="Retriever.retrieve_many takes no `allowed` yet",
)
def test_an_excluded_label_is_retrieved_by_none_of_ten_thousand_requests() -> None:
    draw = random.Random(1)
    labels = drawn_labels(draw)
    chooser = selector(labels)
    encoder = HashEncoder()
    index = LabelIndex.build(labels, encoder)
    retriever = Retriever(encoder, index, RetrieveSettings(candidates=20))
    retrieve: object = retriever.retrieve_many
    assert callable(retrieve)
    for request in drawn_requests(draw, entries_of(labels, draw), 10_000):
        try:
            mask = chooser.allowed(request)
        except ConfigurationError:  # It leaves no label.
            continue
        # The text asks for an excluded label by its very name.
        barred = np.flatnonzero(~mask).tolist() or [0]
        document = (None, (labels[draw.choice(barred)].name,))
        (found,) = retrieve([document], allowed=mask)
        positions = [candidate.position for candidate in found]
        assert mask[positions].all()
        assert len(positions) == min(20, int(mask.sum()))
