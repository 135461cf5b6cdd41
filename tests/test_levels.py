"""Selections and levels of the hierarchy through a whole program."""

from __future__ import annotations

import pytest
from conftest import HashEncoder

import irr.build
from irr.build import build_program
from irr.errors import ConfigurationError
from irr.labels import LabelSet
from irr.program import InferRetrieveRank
from irr.selection import Selection
from irr.types import Label

LABELS = LabelSet(
    [
        Label("A", "bread"),
        Label("A1", "bread of wheat", parents=("A",)),
        Label("A2", "bread of barley", parents=("A",)),
        Label("B", "bicycle"),
        Label("B1", "bicycle brakes", parents=("B",)),
    ]
)


@pytest.fixture
def program(hash_encoder: HashEncoder, monkeypatch: pytest.MonkeyPatch) -> InferRetrieveRank:
    monkeypatch.setattr(irr.build, "load_encoder", lambda *args, **options: hash_encoder)
    return build_program(LABELS)


def ids(program: InferRetrieveRank, text: str) -> list[str]:
    return [label.id for label in program.predict(text).labels]


def test_a_selection_bounds_what_comes_out(program: InferRetrieveRank) -> None:
    assert set(ids(program, "bread of wheat")) == {"A", "A1", "A2", "B", "B1"}
    only = program.variant(selection=Selection(include=("A",), exclude=("A2",)))
    assert set(ids(only, "bicycle brakes")) == {"A", "A1"}


def test_what_is_left_comes_in_the_same_order_and_with_the_same_scores(
    program: InferRetrieveRank,
) -> None:
    everything = program.predict("bread of wheat").labels
    left = program.variant(selection=Selection(exclude=("A1",))).predict("bread of wheat").labels
    assert left == tuple(label for label in everything if label.id != "A1")


def test_selection_and_level_are_of_the_program_for_good(program: InferRetrieveRank) -> None:
    with pytest.raises(AttributeError, match="selection"):
        program.selection = Selection(exclude=("A",))  # type: ignore[misc]
    with pytest.raises(AttributeError, match="prefer"):
        program.prefer = "leaf"  # type: ignore[misc]
    chosen = program.variant(selection=Selection(exclude=("A",)), prefer="leaf")
    assert (chosen.selection, chosen.prefer) == (Selection(exclude=("A",)), "leaf")


def test_a_program_is_built_with_a_selection(
    program: InferRetrieveRank,
) -> None:
    assert program.selection is None
    chosen = build_program(LABELS, selection=Selection(exclude=("B",)), prefer="leaf")
    assert set(ids(chosen, "bread")) == {"A1", "A2"}


def test_leaves_alone(program: InferRetrieveRank) -> None:
    assert set(ids(program.variant(prefer="leaf"), "bread")) == {"A1", "A2", "B1"}


def test_a_parent_takes_the_place_of_children_that_cannot_be_told_apart(
    program: InferRetrieveRank,
) -> None:
    unsure = program.variant(prefer="ancestor-when-unsure")
    found = unsure.predict("bread of").labels
    assert found[0].id == "A"
    assert not {"A1", "A2"} & {label.id for label in found}
    assert ids(unsure, "bicycle brakes")[0] == "B1"


def test_an_excluded_parent_does_not_come_back(program: InferRetrieveRank) -> None:
    unsure = program.variant(
        prefer="ancestor-when-unsure", selection=Selection(exclude=("only:A",))
    )
    assert "A" not in ids(unsure, "bread of")


def test_a_selection_without_leaves_is_an_error(program: InferRetrieveRank) -> None:
    none = program.variant(prefer="leaf", selection=Selection(include=("only:A",)))
    with pytest.raises(ConfigurationError, match="leaves no leaf"):
        none.predict("bread")
