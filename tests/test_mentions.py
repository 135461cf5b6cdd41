"""Names of labels in texts."""

from __future__ import annotations

import pytest

from irr.labels import LabelSet
from irr.mentions import Mentions
from irr.types import Label

LABELS = LabelSet(
    [
        Label("java", "Java (computer programming)"),
        Label("island", "Java (island)"),
        Label("db", "use databases", ("data bases", "DB")),
        Label("it", "IT"),
        Label("cholera", "Cholera, unspecified"),
        Label("cloud", "云计算"),
        Label("cafe", "cafe\u0301 work"),
        Label("cpp", "C++"),
        Label("odd", "(…)"),
        Label("neil", "O'Neil's data-base"),
    ]
)


@pytest.fixture(scope="module")
def mentions() -> Mentions:
    return Mentions(LABELS)


def ids(positions: object) -> list[str]:
    return [LABELS[position].id for position in positions]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("They USE  Databases daily.", ["db"]),
        ("Old data\nbases.", ["db"]),
        ("data-bases", []),
        ("databases", []),
        ("Java and C++.", ["java", "island", "cpp"]),
        ("java (computer programming)", ["java", "island"]),
        ("javanese", []),
        ("IT staff", ["it"]),
        ("it is", []),
        ("a DB", ["db"]),
        ("a db", []),
        ("cholera, unspecified", ["cholera"]),
        ("Cholera. Unspecified", []),
        ("使用云计算平台", ["cloud"]),
        ("Café work", ["cafe"]),
        ("ＣＡＦÉ work", ["cafe"]),
        ("", []),
        ("data\n\nbases", []),
        ("the o’neil’s data‑base", ["neil"]),
    ],
)
def test_names_that_stand_in_a_text(mentions: Mentions, text: str, expected: list[str]) -> None:
    assert ids(mentions.within(text)) == expected


@pytest.mark.parametrize(
    ("guess", "expected"),
    [("Java", ["java", "island"]), ("use java", []), ("it", []), (" use databases ", ["db"])],
)
def test_a_guess_that_is_a_name(mentions: Mentions, guess: str, expected: list[str]) -> None:
    assert ids(mentions.equal(guess)) == expected
