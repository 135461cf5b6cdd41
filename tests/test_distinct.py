from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conftest import HashEncoder
from scripted_server import ScriptedServer

import irr.build
import irr.directory
from irr.build import LMChoice, build_program, open_program
from irr.directory import save_program
from irr.labels import LabelSet
from irr.types import Document, Label

Serve = Callable[..., ScriptedServer]

NOSE = Label("nose", "Diseases of the nose", parents=("body",))
SKIN = Label("skin", "Diseases of the skin", parents=("body",))
BODY = Label("body", "Diseases")


def names(labels: Sequence[Label]) -> list[str]:
    told = LabelSet(labels)
    return [told.distinct(position).name for position in range(len(told))]


def test_labels_of_one_name_are_shown_with_their_parents() -> None:
    colds = [Label("1", "Cold", parents=("nose",)), Label("2", "Cold", parents=("skin",))]
    assert names([BODY, NOSE, SKIN, *colds]) == [
        "Diseases",
        "Diseases of the nose",
        "Diseases of the skin",
        "Cold (in: Diseases of the nose)",
        "Cold (in: Diseases of the skin)",
    ]


def test_case_and_spaces_make_no_other_name() -> None:
    labels = [NOSE, SKIN, Label("1", "ÉTÉ  cold", parents=("nose",))]
    labels.append(Label("2", "été\tCold", parents=("skin",)))
    assert names(labels)[2:] == [
        "ÉTÉ  cold (in: Diseases of the nose)",
        "été\tCold (in: Diseases of the skin)",
    ]


def test_it_goes_up_until_the_names_differ() -> None:
    labels = [
        Label("children", "Children"),
        Label("adults", "Adults"),
        Label("nose of children", "Nose", parents=("children",)),
        Label("nose of adults", "nose", parents=("adults",)),
        Label("1", "Cold", parents=("nose of children",)),
        Label("2", "Cold", parents=("nose of adults",)),
        Label("3", "Cold", parents=("children",)),
    ]
    assert names(labels)[4:] == [
        "Cold (in: Children > Nose)",
        "Cold (in: Adults > nose)",
        "Cold (in: Children)",
    ]


def test_what_has_no_parents_or_the_same_ones_shows_its_id() -> None:
    labels = [NOSE, BODY, *(Label(i, "Cold", parents=("nose",)) for i in "ab"), Label("c", "Cold")]
    assert names(labels)[2:] == ["Cold (id: a)", "Cold (id: b)", "Cold (id: c)"]


def test_parents_outside_the_set_and_circles_are_no_way_up() -> None:
    labels = [
        Label("1", "Cold", parents=("gone", "2")),
        Label("2", "Cold", parents=("1",)),
        Label("3", "Cold", parents=("3", "gone")),
    ]
    assert names(labels) == ["Cold (id: 1)", "Cold (id: 2)", "Cold (id: 3)"]


def test_a_way_without_end_is_not_walked() -> None:
    chains = [
        Label(f"{side}{depth}", f"level {depth}", parents=(f"{side}{depth + 1}",))
        for side in "ab"
        for depth in range(1000)
    ]
    assert names(chains)[0] == "level 0 (id: a0)"


def test_a_child_of_its_parents_name_is_told_apart() -> None:
    labels = [BODY, NOSE, Label("1", "Cold", parents=("nose",)), Label("2", "Cold", parents=("1",))]
    assert names(labels)[2:] == ["Cold (in: Diseases of the nose)", "Cold (in: Cold)"]


def test_without_shared_names_labels_are_themselves() -> None:
    labels = LabelSet([BODY, NOSE, SKIN])
    assert all(labels.distinct(position) is labels[position] for position in range(3))


@pytest.fixture
def _hashed(hash_encoder: HashEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (irr.build, irr.directory):
        monkeypatch.setattr(module, "load_encoder", lambda *args, **options: hash_encoder)


COLDS = LabelSet(
    [NOSE, SKIN, Label("1", "Cold", parents=("nose",)), Label("2", "Cold", parents=("skin",))]
)
SHOWN = {"Cold (in: Diseases of the nose)", "Cold (in: Diseases of the skin)"}


@pytest.mark.usefixtures("_hashed")
def test_rank_is_shown_them_also_by_a_program_that_was_saved(tmp_path: Path, serve: Serve) -> None:
    server = serve(lambda call: "[]" if call.stage == "infer" else json.dumps([1]))
    lm = LMChoice("tiny", server.url, timeout=5)
    examples = [Document("e", "A cold.", gold=("2",))]
    program = build_program(COLDS, lm=lm, examples=examples)
    program.predict("Cold.")
    save_program(program, tmp_path / "p")
    open_program(tmp_path / "p", lm=LMChoice(None, server.url, timeout=5)).predict("Cold.")
    first, second = [call for call in server.calls if call.stage == "rank"]
    assert set(first.candidates) >= SHOWN
    assert all(name in first.messages[1]["content"] for name in SHOWN)  # the demonstration
    assert first.body == second.body


@pytest.mark.usefixtures("_hashed")
def test_a_name_that_two_labels_share_picks_neither(serve: Serve) -> None:
    server = serve(lambda call: '["x"]' if call.stage == "infer" else '["Cold"]')
    program = build_program(COLDS, lm=LMChoice("tiny", server.url, timeout=5))
    prediction = program.predict("Cold.")
    assert not any(label.picked for label in prediction.labels)
    assert prediction.notes[0].startswith("Rank kept the order of retrieval")


@pytest.mark.usefixtures("_hashed")
def test_predictions_keep_the_labels_own_names(serve: Serve) -> None:
    server = serve(
        lambda call: '["x"]' if call.stage == "infer" else '["Cold (in: Diseases of the skin)"]'
    )
    program = build_program(COLDS, lm=LMChoice("tiny", server.url, timeout=5))
    best = program.predict("Cold.").labels[0]
    assert (best.id, best.label, best.picked) == ("2", "Cold", True)
