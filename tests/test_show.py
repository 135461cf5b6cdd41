"""Plain tables: their columns as a terminal shows them."""

from __future__ import annotations

import io

import pytest

from irr.show import print_table


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
