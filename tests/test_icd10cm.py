from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

import pytest

from irr.errors import ConfigurationError
from irr.labels import LabelSet
from irr.types import Label


@pytest.fixture(scope="module")
def codes() -> LabelSet:
    pytest.importorskip("simple_icd_10_cm", reason="simple-icd-10-cm is not installed")
    return LabelSet.read("icd10cm")


def test_a_code_with_an_inclusion_term(codes: LabelSet) -> None:
    assert codes[codes.position_of("A00.0")] == Label(
        "A00.0",
        "Cholera due to Vibrio cholerae 01, biovar cholerae",
        ("Classical cholera",),
        "",
        ("A00",),
    )


def test_words_in_parentheses_may_be_absent(codes: LabelSet) -> None:
    assert codes[codes.position_of("I10")].alternative_names == (
        "Essential hypertension",
        "high blood pressure",
        "hypertension (arterial) (benign) (essential) (malignant) (primary) (systemic)",
        "hypertension",
    )


def test_a_block_that_is_its_only_category(codes: LabelSet) -> None:
    assert codes[codes.position_of("B20")].parents == ("1",)


def test_every_code(codes: LabelSet) -> None:
    assert max(len(id_.replace(".", "")) for id_ in codes.ids) == 5
    for label in codes:
        names = [label.name, *label.alternative_names]
        assert len({name.casefold() for name in names}) == len(names)
        assert all(name == name.strip() and name for name in names)
        assert label.id not in label.parents


def test_counts() -> None:
    try:
        release = version("simple-icd-10-cm")
    except PackageNotFoundError:
        pytest.skip("simple-icd-10-cm is not installed")
    if release != "1.5.0":
        pytest.skip(f"the counts are those of simple-icd-10-cm 1.5.0, not of {release}")
    labels = LabelSet.read("icd10cm")
    # The package lists 26,631 codes, of which 39 twice: blocks named as their only category.
    assert len(labels) == 26_592
    assert sum(not label.parents for label in labels) == 0


def test_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simple_icd_10_cm", None)
    with pytest.raises(ConfigurationError, match=r'pip install "irr\[offline\]"'):
        LabelSet.read("icd10cm")
