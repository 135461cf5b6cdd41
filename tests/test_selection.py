"""Selections: what entries match, by brute force, and that an excluded label never comes out."""

from __future__ import annotations

import fnmatch
import random
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from conftest import HashEncoder

import irr.selection
from irr.errors import ConfigurationError, InputError
from irr.hierarchy import Hierarchy
from irr.index import LabelIndex
from irr.labels import LabelSet
from irr.program import InferRetrieveRank
from irr.retrieve import Retriever
from irr.selection import Selection, Selector, read_selection, selection_of
from irr.types import Document, Label

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


def test_leaves_alone_may_be_allowed() -> None:
    mask = selector().allowed(Selection(exclude=("A1",)), Selection(include=("A",)), leaves=True)
    assert {LABELS[p].id for p in np.flatnonzero(mask)} == {"A2", "F1"}
    with pytest.raises(ConfigurationError, match="leaves no leaf"):
        selector().allowed(Selection(include=("only:A",)), leaves=True)


def test_similar_names_are_not_searched_for_a_stranger() -> None:
    with pytest.raises(ConfigurationError, match=r"'Infectoins'$"):
        selector().allowed(selection_of({"include": ["Infectoins"]}))


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


@pytest.mark.parametrize("bad", ["22", (1,), [None], None, {"A1": 1}])
def test_entries_that_are_no_list_of_strings_are_refused(bad: object) -> None:
    for key in ("include", "exclude"):
        with pytest.raises(ConfigurationError, match=f'"{key}" must be a list'):
            Selection(**{key: bad})  # type: ignore[arg-type]


def test_lists_of_entries_are_as_tuples() -> None:
    listed = Selection(include=["A"], exclude=["A1"])  # type: ignore[arg-type]
    assert listed == Selection(("A",), ("A1",))
    assert allowed(listed) == {"A", "A2", "F1"}


def test_long_patterns_of_strangers_are_refused_long_names_are_not() -> None:
    with pytest.raises(ConfigurationError, match=r"'\[{20}'….* more than 1,000 characters") as info:
        selector().allowed(selection_of({"exclude": ["[" * 50_000]}))
    assert len(str(info.value)) < 200
    name = "cholera " * 200
    chooser = selector(LabelSet([Label("C", name.strip()), Label("D", "x")]))
    assert chooser.allowed(selection_of({"exclude": [name]})).tolist() == [False, True]
    trusted = Selection(exclude=("*cholera" * 200,))
    assert chooser.allowed(trusted).tolist() == [False, True]


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
    with pytest.raises(ConfigurationError, match=r"no label has the id or name '@labels.txt'$"):
        selector().allowed(selection_of({"include": ["@labels.txt"]}))
    for bad in ("A1", [1], [""], {"A1": 1}, 0):
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


def test_an_excluded_label_comes_out_for_none_of_ten_thousand_documents() -> None:
    draw = random.Random(1)
    labels = drawn_labels(draw)
    requests = drawn_requests(draw, entries_of(labels, draw), 10_000)
    assert len(set(requests)) > 8_000
    chooser = selector(labels)
    masks = [mask_or_none(chooser, request) for request in requests]
    # Each text asks for an excluded label by its very name.
    barred = [[0] if mask is None or mask.all() else np.flatnonzero(~mask) for mask in masks]
    documents = [
        Document(str(number), labels[draw.choice(places)].name, selection=request)
        for number, (places, request) in enumerate(zip(barred, requests, strict=True))
    ]
    encoder = HashEncoder()
    retriever = Retriever(encoder, LabelIndex.build(labels, encoder))
    predictions = list(InferRetrieveRank(labels, retriever).predict_many(documents, top_k=20))
    assert [prediction.id for prediction in predictions] == [document.id for document in documents]
    for prediction, mask in zip(predictions, masks, strict=True):
        if mask is None:
            assert prediction.error is not None
            assert "leaves no label" in prediction.error[1]
            continue
        assert prediction.status == "ok"
        positions = [labels.ids.index(label.id) for label in prediction.labels]
        assert mask[positions].all()
        assert len(positions) == min(20, int(mask.sum()))


def mask_or_none(chooser: Selector, request: Selection) -> np.ndarray | None:
    try:
        return chooser.allowed(request)
    except ConfigurationError:
        return None


def test_any_number_of_selections_stays_in_bounded_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count = 20_000
    monkeypatch.setattr(irr.selection, "_MASK_BYTES", 50 * count)
    chooser = selector(LabelSet([Label(f"L{number}", f"n{number}") for number in range(count)]))
    of_run = Selection(exclude=("n7",))
    chooser.allowed(of_run)
    tracemalloc.start()
    try:
        for number in range(1_000):
            assert chooser.allowed(of_run, Selection(exclude=(f"L{number}",))).any()
        left, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A thousand masks would take twelve times as much.
    assert left < peak < 80 * count


def test_the_selection_of_a_run_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    chooser = selector()
    looked: list[str] = []
    find = LABELS.find_all
    monkeypatch.setattr(LABELS, "find_all", lambda name: looked.append(name) or find(name))
    for entry in ("A2", "F1", "A2", "F2"):
        chooser.allowed(Selection(exclude=("A1",)), Selection(exclude=(entry,)))
    assert sorted(looked) == ["A1", "A2", "F1", "F2"]
