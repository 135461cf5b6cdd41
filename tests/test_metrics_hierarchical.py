"""Hierarchical metrics: by hand, by brute force on drawn hierarchies, and through evaluate."""

from __future__ import annotations

import random

import pytest

from irr.errors import ConfigurationError
from irr.evaluate.predictions import Predicted
from irr.evaluate.scoring import hierarchy_for, resolve_gold, score_predictions
from irr.hierarchy import Hierarchy
from irr.labels import LabelSet
from irr.metrics import Above, Scorer, parse_specs
from irr.types import Document, Label

NAMES = "hP@2, hR@2, hF@2, microhP@2, microhR@2, microhF@2"


def above_of(parents: dict[int, set[int]], place: int) -> set[int]:
    return parents[place].union(*(above_of(parents, p) for p in parents[place]))


def scored(above: Above, names: str, rows: list[tuple[list[int], set[int]]]) -> dict[str, float]:
    scorer = Scorer(parse_specs(names), above=above)
    for ranking, gold in rows:
        scorer.add(ranking, None, gold)
    return {name: score.mean or 0.0 for name, score in scorer.result().items()}


def test_by_hand() -> None:
    # 0 over 1 and 2; 1 over 3 and 4; 2 over 5.
    parents = {0: set(), 1: {0}, 2: {0}, 3: {1}, 4: {1}, 5: {2}}
    above = Above(lambda label: above_of(parents, label))  # type: ignore[arg-type]
    # {4, 1, 0, 5, 2} predicted, {3, 1, 0} gold; then {3, 1, 0} predicted, {2, 0} gold.
    found = scored(above, NAMES, [([4, 5, 3], {3}), ([3], {2})])
    assert found["hP@2"] == pytest.approx((2 / 5 + 1 / 3) / 2)
    assert found["hR@2"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["hF@2"] == pytest.approx((4 / 8 + 2 / 5) / 2)
    assert found["microhP@2"] == pytest.approx(3 / 8)
    assert found["microhR@2"] == pytest.approx(3 / 5)
    assert found["microhF@2"] == pytest.approx(6 / 13)


@pytest.mark.parametrize("seed", range(10))
def test_as_by_brute_force(seed: int) -> None:
    draw = random.Random(seed)
    parents = {p: {draw.randrange(p) for _ in range(draw.randrange(3)) if p} for p in range(30)}
    rows = [
        (draw.sample(range(30), draw.randrange(8)), set(draw.sample(range(30), draw.randint(1, 4))))
        for _ in range(20)
    ]
    k = draw.randint(1, 6)
    sums, means = [0, 0, 0], [0.0, 0.0, 0.0]
    for ranking, gold in rows:
        predicted = {x for label in ranking[:k] for x in (label, *above_of(parents, label))}
        wanted = {x for label in gold for x in (label, *above_of(parents, label))}
        shared = len(predicted & wanted)
        p, r = shared / len(predicted) if predicted else 0, shared / len(wanted)
        for at, value in enumerate((p, r, 2 * p * r / (p + r) if p + r else 0)):
            means[at] += value / len(rows)
        for at, count in enumerate((shared, len(predicted), len(wanted))):
            sums[at] += count
    names = NAMES.replace("@2", f"@{k}")
    above = Above(lambda label: above_of(parents, label))  # type: ignore[arg-type]
    found = list(scored(above, names, rows).values())
    micro = [sums[0] / sums[1], sums[0] / sums[2], 2 * sums[0] / (sums[1] + sums[2])]
    assert found == pytest.approx([*means, *micro])


def test_without_a_hierarchy_they_are_precision_and_recall() -> None:
    above = Above(lambda _: ())
    rows = [([1, 2, 3], {1, 9}), ([4], {5}), ([], {6})]
    found = list(scored(above, "hP@2, hR, hF>0, microhF".replace(">0", ""), rows).values())
    flat = list(scored(above, "setP@2, R, F1, microF1", rows).values())
    assert found == pytest.approx(flat)


LABELS = LabelSet(
    [
        Label("all", "all"),
        Label("animal", "animal", parents=("all",)),
        Label("dog", "dog", parents=("animal",)),
        Label("cat", "cat", parents=("animal",)),
        Label("cat2", "cat", parents=("all",)),
        Label("plant", "plant", parents=("all",)),
    ]
)


def evaluated(names: str, ranking: tuple[int, ...], gold: tuple[str, ...]) -> list[float | None]:
    specs = parse_specs(names)
    resolved, _ = resolve_gold([Document("1", "", gold)], LABELS)
    hierarchy = hierarchy_for(specs, LABELS)
    rows = [Predicted(ranking)]
    found = score_predictions("x", rows, resolved, specs, hierarchy=hierarchy)
    return [score.mean for score in found.scores.values()]


def test_evaluate_leaves_the_root_out_of_the_ancestors() -> None:
    # Predicted dog and animal, gold cat and animal; "all" would be shared too.
    assert evaluated("hP@1, hR@1", (2,), ("id of none", "cat")) == [1 / 2, 1 / 3]
    assert evaluated("hP@1", (5,), ("dog",)) == [0.0]


def test_evaluate_counts_unknown_labels_as_wrong_and_without_ancestors() -> None:
    assert evaluated("hP@3, hR@3", (2, -1, -2), ("dog",)) == [2 / 4, 1.0]


def test_evaluate_takes_labels_of_one_name_as_one() -> None:
    # Both labels named "cat" answer the gold: the second is another, wrong one below "all".
    assert evaluated("hP@2", (4, 3), ("cat",)) == [2 / 3]


def test_they_need_a_hierarchy() -> None:
    with pytest.raises(ConfigurationError, match="hF@5 needs a hierarchy: give a label set"):
        Scorer(parse_specs("RP@5, hf@5"))
    flat = LabelSet([Label("a", "a", parents=("missing",)), Label("b", "b")])
    with pytest.raises(ConfigurationError, match="microhP needs a hierarchy, and no label names"):
        hierarchy_for(parse_specs("RP@5, microhP"), flat)
    assert hierarchy_for(parse_specs("RP@5"), LABELS) is None
    assert isinstance(hierarchy_for(parse_specs("hP"), LABELS), Hierarchy)
