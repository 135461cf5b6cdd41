"""Plain tables: their columns as a terminal shows them."""

from __future__ import annotations

import io

import pytest

from irr.show import ResultTable, print_table, without_controls
from irr.types import Document, Prediction, ScoredLabel


def table(header: list[str], *rows: list[str]) -> list[str]:
    stream = io.StringIO()
    print_table(stream, header, rows)
    return stream.getvalue().split("\n")


def test_the_first_column_is_left_the_others_right_aligned() -> None:
    assert table(["", "RP@5", "n"], ["plain", "7.0", "12"], ["x", "100.0", ""]) == [
        "        RP@5   n",
        "plain    7.0  12",
        "x      100.0",
        "",
    ]


@pytest.mark.parametrize(
    ("name", "cells"),
    [("数据库", 6), ("한국어", 6), ("ｱｲ", 2), ("cafe\u0301", 4), ("café", 4), ("e\u0323\u0301", 1)],
)
def test_names_are_as_wide_as_a_terminal_shows_them(name: str, cells: int) -> None:
    assert table(["label", "n"], [name, "1"], ["long name", "23"]) == [
        "label       n",
        name + " " * (9 - cells) + "   1",
        "long name  23",
        "",
    ]
    assert table(["n", "nearest label"], ["1", name])[1] == "1  " + " " * (13 - cells) + name


ODD = "red \x1b]0;title\x07\x9b31m\u202e\x7f x\ty\nz"


def test_what_a_terminal_would_obey_is_replaced() -> None:
    assert without_controls(ODD) == "red \ufffd]0;title\ufffd\ufffd31m\ufffd\ufffd x y z"
    for kept in ("a\xa0b", "می\u200cخواهم", "👩\u200d🔬", "cafe\u0301"):
        assert without_controls(kept) == kept


def test_no_text_of_a_prediction_reaches_the_terminal_with_controls() -> None:
    stream = io.StringIO()
    label = ScoredLabel(ODD, f"name {ODD}", 0.5, ODD, picked=True)
    trace = {"candidates": [{"score": 0.5, "label": ODD, "evidence": ODD}], "picks": [1]}
    rows = [
        Prediction(ODD, "ok", (label,), (ODD,), notes=(ODD,), trace=trace),
        Prediction("e", "error", error=("LMError", ODD)),
    ]
    table = ResultTable(stream)
    list(table.titled([Document(ODD, ODD)]))
    for row in rows:
        table.write(row)
    print_table(stream, ["", ODD], [[ODD, "1"]])
    shown = stream.getvalue()
    assert "name red" in shown
    assert all(character.isprintable() for character in shown.replace("\n", ""))
