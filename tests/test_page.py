"""The page of an evaluation: what it shows, what it lets through, where its plots put points."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irr.evaluate.page import page
from irr.evaluate.plots import Bar, Series, bar_plot, escaped, line_plot, mark, point_plot

_VOID = {"meta", "br", "hr", "img", "link", "input", "wbr"}
_HOSTILE = [
    "<script>alert(1)</script>",
    '" onmouseover="alert(1)" x="',
    "'><img src=x onerror=alert(1)>",
    "</style></svg></title><h1>",
    "R&D &lt;b&gt;",
    "\u202eevil\u202d \u05d0\u05d1\u05d2 \u0627\u0644\u0639",
    "Donaudampfschifffahrts" * 12,
    "\x00\x1b\ud800",
]

_POINTS = [1, 2, 5, 10, 20, 50, 100]


def _program(name: str, shift: float, **others: Any) -> dict[str, Any]:
    recall = [20.1, 31.4, 49.7, 62.8, 74.3, 84.9, 90.9]
    names = ["manage musical staff", "supervise correctional procedures", "direct inward dialing"]
    return {
        "name": name,
        "failed": 0,
        "calls": 0,
        "input_tokens": 0,
        "output_tokens": 0,
        "cost": None,
        "metrics": {
            metric: {
                "mean": round(mean + shift, 2),
                "low": round(mean + shift - 9.6, 2),
                "high": round(mean + shift + 9.7, 2),
            }
            for metric, mean in (("RP@5", 54.2), ("RP@10", 61.17), ("RP@50", 83.4), ("MRR", 71.9))
        },
        "stages": {
            "gold": 220,
            "guessed": None,
            "retrieved": 200,
            "picked": None,
            "top_k": round(141 + shift),
            "k": 10,
            "perfect_rank": {"RP@10": 93.14},
        },
        "recall_by_candidates": [
            [n, round(r + shift * (1 - r / 100), 2)] for n, r in zip(_POINTS, recall, strict=True)
        ],
        "bands": [
            {"band": "unseen", "labels": 140, "gold": 155, "recall": round(57.3 + shift, 2)},
            {"band": "rare", "labels": 40, "gold": 48, "recall": round(66.6 + shift / 2, 2)},
            {"band": "seen", "labels": 9, "gold": 17, "recall": round(75.2 + shift / 3, 2)},
        ],
        "calibration": [
            {"from": i / 10, "to": (i + 1) / 10, "predictions": n, "correct": round(c + shift, 2)}
            for i, n, c in [
                (3, 2104, 2.3),
                (4, 1720, 8.4),
                (5, 903, 19.5),
                (6, 311, 37.9),
                (7, 122, 58.1),
                (8, 41, 77.8),
                (9, 12, 90.2),
            ]
        ],
        "lost": {
            "retrieved": [{"label": n, "count": 3 - i} for i, n in enumerate(names)],
            "ranked": [{"label": f"{names[i % 3]} ({i})", "count": 1} for i in range(43)],
        },
        "lost_documents": [
            {
                "id": f"house-{i}",
                "text": "Conducts the rehearsals of the ensemble, plans the tour of the season "
                "and answers for its budget. " * (1 + i % 4),
                "missed": names[: 1 + i % 3],
                "stage": ("retrieved", "ranked")[i % 2],
            }
            for i in range(9)
        ],
        **others,
    }


def _report() -> dict[str, Any]:
    own = _program(
        "program", 3.3, calls=122, input_tokens=211_034, output_tokens=4_907, cost=0.0381
    )
    own["stages"] |= {"guessed": 121, "picked": 152}
    own["lost"]["guessed"] = [{"label": "answer for the budget", "count": 7}]
    return {
        "title": "HOUSE validation",
        "made": {
            "irr": "0.1.0",
            "date": "2026-11-20",
            "command": "irr evaluate --task house --lm openai/gpt-4o-mini --output report",
        },
        "documents": 61,
        "without_gold": 2,
        "labels": 13896,
        "unknown_gold": {"LABEL NOT PRESENT": 12, "use Word Perfect 5.1": 1},
        "programs": [
            own,
            _program("no LM", 0.0),
            _program(
                "recorded_run.jsonl",
                1.9,
                calls=183,
                failed=1,
                input_tokens=901_220,
                output_tokens=12_511,
                cost=9.87,
            ),
        ],
        "differences": [
            {"a": "program", "b": b, "metric": metric, "mean": mean, "low": low, "high": high}
            for b, metric, mean, low, high in [
                ("no LM", "RP@5", 3.31, 0.42, 6.17),
                ("recorded_run.jsonl", "RP@5", 1.36, 0.11, 2.52),
                ("no LM", "RP@10", 3.28, -4.93, 11.86),
                ("recorded_run.jsonl", "RP@10", 1.44, -2.37, 5.28),
            ]
        ],
    }


class _Page(HTMLParser):
    """Parses strictly: every element that opens closes, in order; keeps what the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        if tag != "wbr":
            self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    @property
    def said(self) -> str:
        return " ".join(text for tag, text in self.texts if tag != "style")


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _numbers(part, name)
    elif isinstance(value, list):
        for part in value:
            yield from _numbers(part, key)
    elif isinstance(value, int | float):
        yield key, value


def _forms(number: float) -> set[str]:
    return {
        f"{number:,}",
        f"{number:g}",
        f"{number:.1f}".replace("-", "−"),
        f"{number:+.1f}".replace("-", "−"),
        f"${number:,.2f}",
        f"${number:,.4f}",
    }


def test_every_number_of_the_report_stands_on_the_page() -> None:
    words = set(re.findall(r"[$+−]?\d+(?:,\d{3})*(?:\.\d+)?", _Page(page(_report())).said))
    for key, number in _numbers(_report()):
        assert _forms(number) & words, (key, number)


def test_nothing_is_fetched_and_nothing_runs() -> None:
    for tag, attributes in _Page(page(_report())).elements:
        assert tag not in {"script", "link", "img", "iframe", "object", "embed", "base", "use"}
        assert not attributes.keys() & {"src", "href", "xlink:href", "srcset", "style", "action"}
        assert not any(name.startswith("on") for name in attributes)
    style = page(_report()).split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style
    assert "http://" not in page(_report()) and "https://" not in page(_report())


def test_the_page_is_named_and_its_plots_and_tables_speak() -> None:
    parsed = _Page(page(_report()))
    assert ("title", "HOUSE validation") in parsed.texts
    assert ("html", {"lang": "en"}) in parsed.elements
    plots = [a for tag, a in parsed.elements if tag == "svg" and a.get("class") == "plot"]
    assert len(plots) == 6
    assert all(plot["role"] == "img" and plot["aria-label"] for plot in plots)
    scopes = [a.get("scope") for tag, a in parsed.elements if tag == "th"]
    assert set(scopes) == {"col", "row"}


def test_the_sentence_of_the_ceilings() -> None:
    said = " ".join(_Page(page(_report())).said.split())
    assert (
        "Of 100 gold labels 55 were guessed, 91 among the candidates, 69 picked and 65 in the top "
        "10; a perfect Rank would reach RP@10 93.1." in said
    )
    assert "Of 100 gold labels 91 were among the candidates and 64 in the top 10; a perfect" in said


def _marked(report: dict[str, Any]) -> list[str]:
    return re.findall(r'class="best">([\d.]+)', page(report))


def test_best_is_marked_only_where_every_difference_excludes_zero() -> None:
    report = _report()
    assert _marked(report) == ["57.5"]
    report["differences"][1]["low"] = -0.1
    assert _marked(report) == []
    report["differences"][1]["low"] = 0.0
    assert _marked(report) == []


def test_the_second_of_a_pair_can_be_the_better() -> None:
    report = _report()
    del report["programs"][2]
    report["differences"] = [
        {"a": "program", "b": "no LM", "metric": "MRR", "mean": -3.0, "low": -5.0, "high": -1.0}
    ]
    assert _marked(report) == ["71.9"]
    assert "no LM is better" in " ".join(_Page(page(report)).said.split())


def test_long_lists_end_with_how_many_more() -> None:
    parsed = _Page(page(_report()))
    assert parsed.said.count("… and 23 more") == 3
    assert "manage musical staff (18)" in parsed.said
    assert "direct inward dialing (20)" not in parsed.said
    assert "Among the candidates, but not at the top: 43 labels" in parsed.said


def _with_texts(value: Any, text: str) -> Any:
    """The report with `text` in place of every text and every name of a metric."""
    if isinstance(value, dict):
        fixed = {"stage", "lost", "metrics"} & value.keys()
        hostile = {k: _with_texts(v, text) for k, v in value.items() if k not in fixed}
        kept = {k: value[k] for k in fixed & {"stage"}}
        lost = {k: {s: _with_texts(v, text) for s, v in value[k].items()} for k in fixed & {"lost"}}
        metrics = {k: dict.fromkeys([text], value[k]["MRR"]) for k in fixed & {"metrics"}}
        return hostile | kept | lost | metrics
    if isinstance(value, list):
        return [_with_texts(part, text) for part in value]
    return text if isinstance(value, str) else value


@pytest.mark.parametrize("text", _HOSTILE)
def test_hostile_texts_stay_texts(text: str) -> None:
    report = _with_texts(_report(), text)
    same = _with_texts(_report(), "plain")
    report["unknown_gold"], same["unknown_gold"] = {text: 3}, {"plain": 3}
    parsed, plain = _Page(page(report)), _Page(page(same))
    assert [tag for tag, _ in parsed.elements] == [tag for tag, _ in plain.elements]
    assert [sorted(a) for _, a in parsed.elements] == [sorted(a) for _, a in plain.elements]
    clean = text.replace("\x00", "\ufffd").replace("\x1b", "\ufffd").replace("\ud800", "\ufffd")
    titles = [said for tag, said in parsed.texts if tag == "title"]
    assert titles == [clean]
    assert sum(said == clean for tag, said in parsed.texts if tag == "bdi") > 50
    page(report).encode("utf-8")


def _holed(draw: st.DrawFn, value: Any) -> Any:
    """`value` with keys missing, lists cut and values None."""
    if isinstance(value, dict):
        kept = draw(st.sets(st.sampled_from(list(value)))) if value else set()
        if draw(st.booleans()):
            kept = set(value)
        return {k: None if draw(st.integers(0, 9)) == 0 else _holed(draw, value[k]) for k in kept}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [_holed(draw, part) for part in value[: draw(st.integers(0, 3))]]
    return value


@st.composite
def _holed_reports(draw: st.DrawFn) -> dict[str, Any]:
    holed = _holed(draw, _report())
    assert isinstance(holed, dict)
    return holed


def _coordinates(text: str) -> Iterator[tuple[float, float, float, float]]:
    """Width and height of the box, x and y, for every point in the plots of a page."""
    number = r"(-?[\d.]+|nan|inf|-inf)"
    for plot in re.findall(r'<svg class="plot".*?</svg>', text, re.DOTALL):
        box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', plot)
        assert box is not None
        width, height = map(float, box.groups())
        found = re.findall(rf'(?:x|cx)="{number}" (?:y|cy)="{number}"', plot)
        for points in re.findall(r'points="([^"]*)"', plot):
            found += [tuple(point.split(",")) for point in points.split()]
        found += re.findall(rf"M{number} {number}", plot)
        for x, y, wide in re.findall(rf'x="{number}" y="{number}" width="{number}"', plot):
            found.append((str(float(x) + float(wide)), y))
        for x, y in found:
            yield width, height, float(x), float(y)


def _inside(text: str) -> None:
    for width, height, x, y in _coordinates(text):
        assert math.isfinite(x) and math.isfinite(y)
        assert -0.1 <= x <= width + 0.1 and -0.1 <= y <= height + 0.1


@settings(max_examples=150, deadline=None)
@given(_holed_reports())
def test_missing_parts_are_left_out(report: dict[str, Any]) -> None:
    before = copy.deepcopy(report)
    text = page(report)
    parsed = _Page(text)
    assert report == before
    assert "None" not in parsed.said and "nan" not in parsed.said.split()
    _inside(text)


def test_an_empty_report_is_a_page() -> None:
    parsed = _Page(page({}))
    assert parsed.said.split() == ["Evaluation", "Evaluation"]
    assert _Page(page(dict.fromkeys(_report()))).said.split() == ["Evaluation"] * 2


def test_the_page_of_a_report_read_back_is_the_same() -> None:
    assert page(json.loads(json.dumps(_report()))) == page(_report())


def test_points_are_inside_the_plots() -> None:
    assert sum(1 for _ in _coordinates(page(_report()))) > 200
    _inside(page(_report()))


def _scale(plot: str, axis: str, coordinate: str, *, log: bool = False) -> tuple[float, float]:
    """Slope and offset of an axis, read off its first and last tick."""
    tick = rf'class="tick {axis} \w+" x="([\d.]+)" y="([\d.]+)">([^<]*)<'
    ticks = [
        (float(x if coordinate == "x" else y) - (4 if coordinate == "y" else 0), float(value))
        for x, y, value in re.findall(tick, plot.replace(",", ""))
    ]
    (a, first), (b, last) = ticks[0], ticks[-1]
    first, last = (math.log(first), math.log(last)) if log else (first, last)
    slope = (last - first) / (b - a)
    return slope, first - slope * a


def _read(plot: str, pattern: str, *, log: bool = False) -> list[list[tuple[float, float]]]:
    """The lines of a plot in the units of its axes."""
    (mx, bx), (my, by) = _scale(plot, "x", "x", log=log), _scale(plot, "y", "y")
    lines = []
    for points in re.findall(pattern, plot):
        pairs = [tuple(map(float, point.split(","))) for point in points.split()]
        lines.append(
            [(math.exp(mx * x + bx) if log else mx * x + bx, my * y + by) for x, y in pairs]
        )
    return lines


def _close(read: Sequence[tuple[float, float]], points: Sequence[tuple[float, float]]) -> bool:
    return len(read) == len(points) and all(
        x == pytest.approx(a, rel=0.01, abs=0.01) and y == pytest.approx(b, abs=0.1)
        for (x, y), (a, b) in zip(read, points, strict=True)
    )


def test_lines_go_through_the_data() -> None:
    text, report = page(_report()), _report()
    recall = next(p for p in re.findall(r"<svg class=.plot.*?</svg>", text) if "Lines: recall" in p)
    lines = _read(recall, r'<polyline class="line[^"]*" points="([^"]*)"', log=True)
    assert len(lines) == 3
    for line, program in zip(lines, report["programs"], strict=True):
        assert _close(line, [(x, y) for x, y in program["recall_by_candidates"]])
    share = next(p for p in re.findall(r"<svg class=.plot.*?</svg>", text) if "Lines: share" in p)
    lines = _read(share, r'<polyline class="line[^"]*" points="([^"]*)"')
    for line, program in zip(lines, report["programs"], strict=True):
        bins = program["calibration"]
        assert _close(line, [((b["from"] + b["to"]) / 2, b["correct"]) for b in bins])
    even = _read(share, r'<polyline class="even" points="([^"]*)"')[0]
    assert all(100 * x == pytest.approx(y, abs=0.3) for x, y in even)


def test_points_stand_at_cost_and_quality() -> None:
    a = Series(0, "a", [(0.0, 40.0)], (), (35.0, 44.0))
    b = Series(4, "b", [(2.5, 61.0)], (), (58.0, 66.0))
    plot = point_plot([a, b], "x", ("Cost", "RP@10"))
    (mx, bx), (my, by) = _scale(plot, "x", "x"), _scale(plot, "y", "y")
    found = [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', plot)]
    assert _close([(mx * x + bx, my * y + by) for x, y in found], [(0.0, 40.0)])
    spans = re.findall(r'd="M([\d.]+) ([\d.]+)V([\d.]+)"', plot)
    read = [[my * float(y) + by for y in (low, high)] for _, low, high in spans]
    assert read[0] == pytest.approx([35.0, 44.0], abs=0.2)
    assert read[1] == pytest.approx([58.0, 66.0], abs=0.2)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=5), st.integers(1, 3))
def test_bars_are_as_long_as_their_values(values: list[float], groups: int) -> None:
    bars = [Bar(n, f"p{n}", value) for n, value in enumerate(values)]
    plot = bar_plot([(f"g{n}", bars) for n in range(groups)], "x")
    widths = [float(w) for w in re.findall(r'width="([\d.]+)"', plot)]
    tracks, lengths = widths[::2], widths[1::2]
    assert len(lengths) == groups * len(values)
    for length, track, value in zip(lengths, tracks, values * groups, strict=True):
        assert length == pytest.approx(track * value / 100, abs=0.06)


@given(st.lists(st.floats(0, 100), min_size=2, max_size=7))
def test_names_in_a_plot_do_not_meet(heights: list[float]) -> None:
    series = [Series(n, f"name {n}", [(1, 5.0), (100, y)]) for n, y in enumerate(heights)]
    plot = line_plot(series, "x", ("n", "%"), log=True)
    rows = sorted(float(y) for y in re.findall(r'class="series" x="[\d.]+" y="([\d.]+)"', plot))
    assert all(b - a >= 15.9 for a, b in pairwise(rows))
    _inside(plot)


@given(st.lists(st.tuples(st.floats(1e-6, 1e9), st.floats(-50, 150)), min_size=1, max_size=6))
def test_any_finite_points_can_be_drawn(points: list[tuple[float, float]]) -> None:
    series = [Series(n, "n" * 40, [point]) for n, point in enumerate(points)]
    _inside(line_plot(series, "x", ("n", "%"), log=True))
    _inside(line_plot(series, "x", ("n", "%")))
    _inside(point_plot(series, "x", ("n", "%")))


def test_sixteen_programs_have_marks_of_their_own() -> None:
    marks = [mark(n, 6, 6) for n in range(16)]
    assert len(set(marks)) == 16
    _Page(f"<svg>{''.join(marks)}</svg>")


@given(st.text())
def test_escaped_text_reads_back(text: str) -> None:
    parsed = _Page(f'<p title="{escaped(text)}">{escaped(text)}</p>')
    assert "".join(said for _, said in parsed.texts) == parsed.elements[0][1]["title"]
