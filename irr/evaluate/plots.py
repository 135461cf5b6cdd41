"""Plots as inline SVG: numbers → one `<svg>` element, drawn with the classes of `STYLE`.

A program keeps its number through the page: the number gives colour, dash and mark, which differ
in brightness and shape too. Series carry their names in the plot. Text is escaped here.
"""

from __future__ import annotations

import html
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["STYLE", "Bar", "Series", "bar_plot", "escaped", "line_plot", "mark", "point_plot"]

STYLE = """
:root { --s0: #173a6b; --s1: #d07a16; --s2: #7b3f8c; --s3: #2b8a7d; --track: #e9ebee; }
@media screen and (prefers-color-scheme: dark) {
  :root { --s0: #a9d0ff; --s1: #d9822b; --s2: #b07cc9; --s3: #6fd8c6; --track: #2a3038; } }
svg.plot { display: block; width: 100%; max-width: 36rem; height: auto; overflow: visible; }
.plot text { font-size: 14.5px; fill: var(--ink); font-variant-numeric: tabular-nums;
  unicode-bidi: isolate; }
@media (min-width: 50rem) { .plot text { font-size: 12px; } }
.plot .tick, .plot .axis { fill: var(--soft); }
.plot .head, .plot .series { font-weight: 600; }
.plot .end { text-anchor: end; }
.plot .middle { text-anchor: middle; }
.plot .grid { stroke: var(--rule); fill: none; }
.plot .even { stroke: var(--soft); stroke-dasharray: 2 4; }
.plot .track { fill: var(--track); }
.plot circle, .plot polygon { stroke: var(--paper); }
.spread { stroke-width: 2.5; }
.line { fill: none; stroke-width: 2.5; stroke-linejoin: round; stroke-linecap: round; }
.d1 { stroke-dasharray: 8 4; } .d2 { stroke-dasharray: 2 5; } .d3 { stroke-dasharray: 10 4 2 4; }
.c0 { fill: var(--s0); } .c1 { fill: var(--s1); } .c2 { fill: var(--s2); } .c3 { fill: var(--s3); }
.l0 { stroke: var(--s0); } .l1 { stroke: var(--s1); } .l2 { stroke: var(--s2); }
.l3 { stroke: var(--s3); }
"""
_WIDTH, _HEIGHT = 460, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 36.0, 344.0, 30.0, 252.0
_LINE = 16.0
_NAME_UNITS, _LETTER = 11, 9.0
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one program, by rising x; `weights`, if any, are the areas of their marks.

    y is in percent; `low` and `high` bound the y of each point, where they are known.
    """

    number: int
    name: str
    points: Sequence[tuple[float, float]]
    weights: Sequence[float] = ()
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar, from 0 to `value` percent; with an interval (low, high) a mark on its span."""

    number: int
    name: str
    value: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class _Axis:
    """Maps values in [low, high] to coordinates from `start` to `end`; others to the ends."""

    low: float
    high: float
    start: float
    end: float
    ticks: Sequence[float]
    log: bool = False

    def at(self, value: float) -> float:
        low, high, value = (
            map(math.log, (self.low, self.high, max(value, self.low)))
            if self.log
            else (self.low, self.high, value)
        )
        share = min(max((value - low) / (high - low), 0.0), 1.0)
        return self.start + share * (self.end - self.start)


def escaped(value: object) -> str:
    """Text as HTML, safe in elements and in quoted attributes; what no file can hold is marked."""
    return html.escape(_UNSAFE.sub("\ufffd", str(value)), quote=True)


def mark(number: int, x: float, y: float, radius: float = 5.0) -> str:
    """The mark of a program: a disc, square, triangle or diamond of the same area."""
    shape, colour = number // 4 + number, f"c{number % 4}"
    if shape % 4 == 0:
        return f'<circle class="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/>'
    side = radius * math.sqrt(math.pi)
    corners = {
        1: [(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)],
        2: [(0.0, -0.88), (0.76, 0.44), (-0.76, 0.44)],
        3: [(0.0, -0.71), (0.71, 0.0), (0.0, 0.71), (-0.71, 0.0)],
    }[shape % 4]
    path = " ".join(f"{x + side * dx:.1f},{y + side * dy:.1f}" for dx, dy in corners)
    return f'<polygon class="{colour}" points="{path}"/>'


def bar_plot(groups: Sequence[tuple[str, Sequence[Bar]]], about: str) -> str:
    """Horizontal bars under a heading each group, one below the other, on a scale of 0 to 100."""
    named = max(len(bars) for _, bars in groups) > 1
    across = _Axis(0, 100, 116.0 if named else 0.0, _WIDTH - 46.0, ())
    drawn, y = [], 0.0
    for heading, bars in groups:
        drawn.append(_text(0, y + 14, _cut(heading, 44), "head"))
        y += 20
        for bar in bars:
            drawn.append(_bar(bar, across, y, named))
            y += 20
        y += 12
    return _svg(drawn, about, y - 10)


def _bar(bar: Bar, across: _Axis, y: float, named: bool) -> str:
    end = across.at(bar.value)
    parts = [_text(across.start - 8, y + 13, _cut(bar.name, 13), "end")] if named else []
    parts.append(_rect(across.start, y + 1, across.end, "track"))
    if bar.interval is None:
        parts.append(_rect(across.start, y + 1, end, f"c{bar.number % 4}"))
    else:
        low, high = map(across.at, bar.interval)
        parts.append(_path(f"M{low:.1f} {y + 9:.1f}H{high:.1f}", f"spread l{bar.number % 4}"))
        parts.append(mark(bar.number, end, y + 9))
    parts.append(_text(_WIDTH, y + 13, f"{bar.value:.1f}", "end"))
    return "".join(parts)


def line_plot(
    series: Sequence[Series], about: str, titles: tuple[str, str], *, log: bool = False
) -> str:
    """Lines over x (`log`: on a logarithmic scale), y from 0 to 100; `titles` of x and y."""
    values = [x for one in series for x, _ in one.points]
    across = (_log_axis if log else _linear_axis)(values, _LEFT, _RIGHT)
    up = _Axis(0, 100, _BOTTOM, _TOP, (0, 20, 40, 60, 80, 100))
    drawn = [_frame(across, up, titles)]
    if not log:  # Scores: where a score says how often it is right.
        ends = [(x, 100 * x) for x in (max(across.low, 0.0), min(across.high, 1.0))]
        ends = ends if ends[0] < ends[1] else []
        drawn.append(_polyline(_placed(ends, across, up), "even"))
    most = max((w for one in series for w in one.weights), default=1.0)
    for one in series:
        drawn.append(_series(one, _placed(one.points, across, up), most))
    ends = [_placed(one.points, across, up)[-1] for one in series]
    ranked = sorted(zip(ends, series, strict=True), key=lambda pair: pair[0][1])
    boxes = _settled([_box(x + 11, y, one.name) for (x, y), one in ranked], [])
    for (_, one), (left, _, top, _) in zip(ranked, boxes, strict=True):
        drawn.append(_text(left, top + 12, _cut(one.name, _NAME_UNITS), "series"))
    return _svg(drawn, about)


def _series(one: Series, places: Sequence[tuple[float, float]], most: float) -> str:
    number = one.number
    line = _polyline(places, f"line l{number % 4} d{(number // 4 + number) % 4}")
    radii = [2.5 + 6 * math.sqrt(w / max(most, 1e-9)) for w in one.weights] or [4.0] * len(places)
    marks = (mark(number, x, y, r) for (x, y), r in zip(places, radii, strict=True))
    return line + "".join(marks)


def point_plot(series: Sequence[Series], about: str, titles: tuple[str, str]) -> str:
    """One point a program, with its interval upright; both axes fit the data."""
    heights = [y for one in series for y in (one.points[0][1], *(one.interval or ()))]
    across = _linear_axis([0.0, *(one.points[0][0] for one in series)], _LEFT + 8, _WIDTH - 14.0)
    up = _linear_axis(heights, _BOTTOM, _TOP)
    drawn, taken, wanted = [_frame(across, up, titles)], [], []
    for one in series:
        x, y = _placed(one.points, across, up)[0]
        low, high = map(up.at, one.interval or (one.points[0][1],) * 2)
        drawn.append(_path(f"M{x:.1f} {low:.1f}V{high:.1f}", f"spread l{one.number % 4}"))
        drawn.append(mark(one.number, x, y, 6))
        taken.append((x - 7, x + 7, min(high, y - 7), max(low, y + 7)))
        left = x + 11 if x < 260 else x - 11 - _LETTER * _units(_cut(one.name, _NAME_UNITS))
        wanted.append(_box(left, y, one.name))
    for one, (left, _, top, _) in zip(series, _settled(wanted, taken), strict=True):
        drawn.append(_text(left, top + 12, _cut(one.name, _NAME_UNITS), "series"))
    return _svg(drawn, about)


def _box(left: float, middle: float, name: str) -> Box:
    width = _LETTER * _units(_cut(name, _NAME_UNITS))
    return left, left + width, middle - _LINE / 2, middle + _LINE / 2


def _settled(wanted: Sequence[Box], taken: Sequence[Box]) -> list[Box]:
    """Each box moved down, else up, until it is off those before it and off `taken`."""
    settled: list[Box] = []
    shifts = [*range(221), *range(-1, -221, -1)]
    for left, right, top, bottom in wanted:
        moved = [(left, right, top + s, bottom + s) for s in shifts]
        inside = [box for box in moved if box[2] > _TOP - 12 and box[3] < _BOTTOM + 8]
        free = (box for box in inside if not any(_meet(box, b) for b in [*taken, *settled]))
        settled.append(next(free, inside[0]))
    return settled


def _meet(one: Box, other: Box) -> bool:
    across = one[0] < other[1] and other[0] < one[1]
    return across and one[2] < other[3] and other[2] < one[3]


def _linear_axis(values: Iterable[float], start: float, end: float) -> _Axis:
    values = list(values)
    low, high = min(values), max(values)
    wide = high - low if high - low > 1e-9 * max(abs(low), abs(high), 1.0) else max(abs(high), 1.0)
    power = 10.0 ** math.floor(math.log10(wide / 5))
    step = next(m * power for m in (1, 2, 5, 10) if wide / (m * power) <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    ticks = [n * step for n in range(first, last + 1)]
    return _Axis(ticks[0], ticks[-1], start, end, ticks)


def _log_axis(values: Iterable[float], start: float, end: float) -> _Axis:
    values = list(values)
    low, high = min(values), max(max(values), 10 * min(values))
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1,)):
        ticks = [m * 10.0**p for p in powers for m in steps if low <= m * 10.0**p <= high]
        if len(ticks) <= 10:
            break
    return _Axis(low, high, start, end, ticks, log=True)


def _frame(across: _Axis, up: _Axis, titles: tuple[str, str]) -> str:
    right, parts = max(across.end, _RIGHT), []
    for tick in up.ticks:
        y = up.at(tick)
        parts.append(_path(f"M{_LEFT:g} {y:.1f}H{right:g}", "grid"))
        parts.append(_text(_LEFT - 9, y + 4, f"{tick:,.10g}", "tick y end"))
    for tick in across.ticks:
        x = across.at(tick)
        parts.append(_path(f"M{x:.1f} {_BOTTOM:g}v5", "grid"))
        parts.append(_text(x, _BOTTOM + 19, f"{tick:,.10g}", "tick x middle"))
    parts.append(_text(0, 12, _cut(titles[1], 44), "axis"))
    parts.append(_text((_LEFT + right) / 2, _BOTTOM + 40, titles[0], "axis middle"))
    return "".join(parts)


def _placed(
    points: Sequence[tuple[float, float]], across: _Axis, up: _Axis
) -> list[tuple[float, float]]:
    return [(across.at(x), up.at(y)) for x, y in points]


def _polyline(places: Sequence[tuple[float, float]], classes: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline class="{classes}" points="{path}"/>'


def _path(path: str, classes: str) -> str:
    return f'<path class="{classes}" d="{path}"/>'


def _rect(left: float, top: float, right: float, classes: str) -> str:
    width = right - left
    return f'<rect class="{classes}" x="{left:g}" y="{top:g}" width="{width:.1f}" height="16"/>'


def _text(x: float, y: float, text: str, classes: str) -> str:
    return f'<text class="{classes}" x="{x:.1f}" y="{y:.1f}">{escaped(text)}</text>'


def _svg(parts: Iterable[str], about: str, height: float = _HEIGHT) -> str:
    box = f'viewBox="0 0 {_WIDTH} {height:g}"'
    return (
        f'<svg class="plot" {box} role="img" aria-label="{escaped(about)}">{"".join(parts)}</svg>'
    )


def _units(text: str) -> int:
    """The width of a text in Latin letters."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def _cut(text: str, units: int) -> str:
    """The text on one line, without its middle where it is wider than `units` letters."""
    text = " ".join(text.split())
    if _units(text) <= units:
        return text
    head, tail = text[: len(text) // 2], text[len(text) // 2 :]
    head, tail = head[: units + 1], tail[-units - 1 :]
    while _units(head) + _units(tail) > units - 1:
        if _units(head) >= _units(tail):
            head = head[:-1]
        else:
            tail = tail[1:]
    return f"{head.rstrip(' .')}…{tail.lstrip(' .')}"
