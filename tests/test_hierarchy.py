"""The hierarchy, against walks over dictionaries; backing off, on families small enough to see."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from irr.errors import ConfigurationError
from irr.hierarchy import Answer, Hierarchy, Unsure, back_off
from irr.labels import LabelSet
from irr.types import Label


def hierarchy(parents: dict[str, str]) -> Hierarchy:
    """From labels to their parents, separated by blanks."""
    return Hierarchy.of(LabelSet(Label(k, k, parents=tuple(v.split())) for k, v in parents.items()))


def drawn(draw: random.Random, size: int) -> list[set[int]]:
    """The parents of each label: up to three with lower numbers, so without cycles."""
    return [{draw.randrange(p) for _ in range(draw.randrange(4)) if p} for p in range(size)]


def above(parents: list[set[int]], place: int) -> set[int]:
    return parents[place].union(*(above(parents, p) for p in parents[place]))


@pytest.mark.parametrize("seed", range(5))
def test_it_is_as_by_walks_over_dictionaries(seed: int) -> None:
    draw = random.Random(seed)
    parents = drawn(draw, 40)
    names = [f"L{draw.random()}" for _ in parents]
    labels = [
        Label(name, "x", parents=tuple(names[p] for p in sorted(own)))
        for name, own in zip(names, parents, strict=True)
    ]
    order = list(range(len(labels)))
    draw.shuffle(order)
    at = {old: new for new, old in enumerate(order)}
    found = Hierarchy.of(LabelSet(labels[old] for old in order))

    def level(place: int) -> int:
        return 1 + max(map(level, parents[place]), default=0)

    for old, new in at.items():
        assert set(found.parents(new)) == {at[p] for p in parents[old]}
        assert found.children(new) == sorted(at[c] for c, own in enumerate(parents) if old in own)
        ancestors = found.ancestors(new)
        assert len(ancestors) == len(set(ancestors))
        assert set(ancestors) == {at[p] for p in above(parents, old)}
        assert found.levels[new] == level(old)
        assert found.leaves[new] == (not found.children(new))
        below = {at[c] for c in range(len(parents)) if c == old or old in above(parents, c)}
        assert set(np.flatnonzero(found.below([new])).tolist()) == below
    assert not found.missing
    assert not found.cycles


def test_ancestors_come_nearest_first() -> None:
    found = hierarchy({"top": "", "a": "top", "b": "top", "c": "a", "d": "c b"})
    assert found.ancestors(4) == [3, 2, 1, 0]


def test_parents_that_are_not_in_the_set_are_counted() -> None:
    found = hierarchy({"a": "x", "b": "x a y", "c": ""})
    assert found.missing == {"x": 2, "y": 1}
    assert found.parents(1) == [0]
    assert not hierarchy({"a": "x", "b": ""})


def test_a_parent_is_an_id_and_not_a_name() -> None:
    labels = LabelSet([Label("1", "animal"), Label("2", "dog", parents=("animal",))])
    assert Hierarchy.of(labels).missing == {"animal": 1}


def test_cycles_are_cut_and_reported() -> None:
    found = hierarchy({"a": "b", "b": "c", "c": "a top", "top": "", "below": "a", "self": "self"})
    assert found.cycles == (("a", "b", "c", "a"), ("self", "self"))
    assert [found.parents(place) for place in range(6)] == [[1], [2], [3], [], [0], []]
    assert found.levels.tolist() == [4, 3, 2, 1, 5, 1]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_names_whatever_as_parent_no_way_comes_back(seed: int) -> None:
    draw = random.Random(seed)
    parents = {f"{place}": {f"{draw.randrange(12)}" for _ in range(2)} for place in range(12)}
    found = hierarchy({k: " ".join(sorted(v)) for k, v in parents.items()})
    assert found.levels.min() == 1
    kept = {(c, p) for c in range(12) for p in found.parents(c)}
    wanted = {(int(c), int(p)) for c, own in parents.items() for p in own}
    cut = {(int(way[-2]), int(way[-1])) for way in found.cycles}
    assert kept == wanted - cut
    for way in found.cycles:
        assert way[0] == way[-1]
        assert all((int(c), int(p)) in wanted for c, p in itertools.pairwise(way))


def test_labels_that_are_their_own_parents_keep_their_other_parents() -> None:
    count = 3_000
    found = hierarchy({f"{n}": f"{n} {n - 1}" if n else "0" for n in range(count)})
    assert found.cycles == tuple((f"{n}", f"{n}") for n in range(count))
    assert [found.parents(n) for n in range(count)] == [[], *([n - 1] for n in range(1, count))]


def test_the_root_is_the_one_label_at_the_top() -> None:
    assert hierarchy({"a": "top", "top": "", "b": "a"}).root == 1
    assert hierarchy({"a": "", "b": "", "c": "a"}).root is None


def test_a_chain_of_ten_thousand_levels() -> None:
    found = hierarchy({f"{n}": f"{n - 1}" if n else "" for n in range(10_000)})
    assert found.levels.tolist() == list(range(1, 10_001))
    assert len(found.ancestors(9_999)) == 9_999


#      0 top
#    1 a        2 b
#  3 a1 4 a2   5 b1
FAMILY = hierarchy({"top": "", "a": "top", "b": "top", "a1": "a", "a2": "a", "b1": "b"})
A, B, A1, A2, B1 = 1, 2, 3, 4, 5
NEAR = Unsure(margin=0.1, temperature=0.05)


def unsure(ranked: list[tuple[int, float]], **more: object) -> list[Answer]:
    return back_off(ranked, FAMILY, "ancestor-when-unsure", unsure=NEAR, **more)  # type: ignore[arg-type]


def pooled(*scores: float) -> float:
    return 0.05 * math.log(sum(math.exp(score / 0.05) for score in scores))


def test_any_changes_nothing() -> None:
    ranked = [(A1, 0.8), (A, 0.79), (A2, 0.78)]
    assert back_off(ranked, FAMILY) == [Answer(A1, 0.8, 0), Answer(A, 0.79, 1), Answer(A2, 0.78, 2)]


def test_leaf_leaves_labels_with_children_out_also_picked_ones() -> None:
    ranked = [(A, 0.9), (A2, 0.8), (B, 0.7), (B1, 0.6)]
    found = back_off(ranked, FAMILY, "leaf", picked=[A])
    assert found == [Answer(A2, 0.8, 1), Answer(B1, 0.6, 3)]


def test_siblings_that_are_too_near_give_way_to_their_parent() -> None:
    (first, second) = unsure([(A1, 0.8), (B1, 0.75), (A2, 0.72)])
    assert first == Answer(A, pytest.approx(pooled(0.8, 0.72)), 0)
    assert second == Answer(B1, 0.75, 1)


def test_siblings_that_are_told_apart_stay() -> None:
    ranked = [(A1, 0.8), (A2, 0.7)]
    assert [answer.position for answer in unsure(ranked)] == [A1, A2]


def test_the_score_of_a_ranked_parent_is_pooled_in() -> None:
    (only,) = unsure([(A1, 0.8), (A, 0.78), (A2, 0.75)])
    assert only == Answer(A, pytest.approx(pooled(0.8, 0.78, 0.75)), 0)


def test_a_ranked_parent_alone_is_no_reason_to_give_way() -> None:
    assert [answer.position for answer in unsure([(A1, 0.8), (A, 0.8)])] == [A1, A]


def test_backing_off_goes_on_until_a_level_is_sure() -> None:
    (only,) = unsure([(A1, 0.8), (A2, 0.79), (B, 0.78)])
    assert only == Answer(0, pytest.approx(pooled(pooled(0.8, 0.79), 0.78)), 0)


def test_a_pooled_score_may_change_the_order() -> None:
    found = unsure([(B1, 0.81), (A1, 0.8), (A2, 0.8)])
    assert [(answer.position, answer.place) for answer in found] == [(A, 1), (B1, 0)]


def test_a_pick_and_its_siblings_do_not_give_way_and_the_pick_keeps_its_place() -> None:
    ranked = [(A2, 0.6), (B1, 0.81), (A1, 0.6)]
    assert [answer.position for answer in unsure(ranked, picked=[A2])] == [A2, B1, A1]


def test_others_back_off_behind_the_picks() -> None:
    found = unsure([(B1, 0.5), (A1, 0.8), (A2, 0.79)], picked=[B1])
    assert [(answer.position, answer.place) for answer in found] == [(B1, 0), (A, 1)]


def test_a_label_that_is_not_allowed_takes_nobody_s_place() -> None:
    allowed = np.ones(6, np.bool_)
    allowed[A] = False
    assert [a.position for a in unsure([(A1, 0.8), (A2, 0.79)], allowed=allowed)] == [A1, A2]


def test_with_margin_zero_nothing_gives_way() -> None:
    ranked = [(A1, 0.8), (A2, 0.8), (B1, 0.8)]
    found = back_off(ranked, FAMILY, "ancestor-when-unsure", unsure=Unsure(margin=0))
    assert [answer.position for answer in found] == [A1, A2, B1]


@pytest.mark.parametrize("seed", range(30))
def test_what_comes_out_stands_for_all_that_went_in(seed: int) -> None:
    draw = random.Random(seed)
    parents = drawn(draw, 30)
    tree = hierarchy({f"{p}": " ".join(map(str, sorted(own))) for p, own in enumerate(parents)})
    places = draw.sample(range(30), 15)
    scores = sorted((draw.uniform(0.4, 0.9) for _ in places), reverse=True)
    picked = draw.sample(places, draw.randrange(3))
    ranked = list(zip(places, scores, strict=True))
    found = back_off(ranked, tree, "ancestor-when-unsure", picked=picked, unsure=NEAR)
    positions = [answer.position for answer in found]
    assert len(positions) == len(set(positions))
    for position, score in ranked:
        covering = [a for a in found if a.position in {position, *above(parents, position)}]
        assert any(answer.score >= score - 1e-9 for answer in covering)
    for answer in found:
        source = places[answer.place]
        assert answer.position in {source, *above(parents, source)}
    assert set(picked) <= set(positions)


def test_settings_out_of_range_are_errors() -> None:
    with pytest.raises(ConfigurationError, match="the margin must be 0 or more, not -1"):
        Unsure(margin=-1)
    with pytest.raises(ConfigurationError, match=r"temperature must be at least 0.001, not 0"):
        Unsure(temperature=0)
    with pytest.raises(ConfigurationError, match="prefer 'leaves': known are leaf, any, ancestor"):
        back_off([], FAMILY, "leaves")  # type: ignore[arg-type]
