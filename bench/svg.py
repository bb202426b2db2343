"""Draws charts as SVG: bars and lines, legible on light and dark pages, without scripts or fonts to load."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH = 820
LABEL_PIXELS = 7.1  # the width of one character, an upper estimate, because the font is unknown
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328; }
.title { font-size: 16px; font-weight: 600; }
.small { font-size: 11px; fill: #59636e; }
.grid { stroke: #d1d9e0; stroke-width: 1; }
.axis { stroke: #818b98; stroke-width: 1; }
.s0 { fill: #0969da; stroke: #0969da; } .s1 { fill: #818b98; stroke: #818b98; }
.s2 { fill: #bc4c00; stroke: #bc4c00; } .s3 { fill: #1a7f37; stroke: #1a7f37; }
.line { fill: none; stroke-width: 2; } .whisker { stroke: #1f2328; stroke-width: 1; opacity: .55; }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc; } .small { fill: #9198a1; }
  .grid { stroke: #3d444d; } .axis { stroke: #656c76; } .whisker { stroke: #f0f6fc; }
  .s0 { fill: #4493f8; stroke: #4493f8; } .s1 { fill: #9198a1; stroke: #9198a1; }
  .s2 { fill: #f0883e; stroke: #f0883e; } .s3 { fill: #3fb950; stroke: #3fb950; }
  .line { fill: none; }
}
"""


@dataclass(frozen=True)
class Bar:
    label: str
    value: float
    low: float
    high: float
    text: str
    style: int = 1


@dataclass(frozen=True)
class Line:
    label: str
    points: tuple[tuple[float, float], ...]
    style: int = 0


def text(x: float, y: float, content: str, style: str = "", anchor: str = "start") -> str:
    kind = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{escape(content)}</text>'


def segment(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{style}"/>'


def document(height: float, title: str, note: str, parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    size = f'viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}"'
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(title, {chr(34): "&quot;"})}">'
    )
    captions = text(0, 18, title, "title") + "\n" + text(0, 37, note, "small")
    return f"{head}\n<style>{STYLE}</style>\n{captions}\n{body}\n</svg>\n"


def bars(title: str, note: str, groups: Sequence[tuple[str, Sequence[Bar]]], remarks: Sequence[str] = ()) -> str:
    """Horizontal bars from zero, with a whisker from the smallest to the largest value, and remarks below."""
    longest = max((len(bar.label) for _name, found in groups for bar in found), default=0)
    left, top, step = max(150.0, longest * LABEL_PIXELS + 14), 58.0, 25.0
    room = WIDTH - left - 95.0
    largest = max((bar.high for _name, found in groups for bar in found), default=1.0) or 1.0
    parts, y = [], top
    for name, found in groups:
        if name:
            parts.append(text(0, y + 12, name, "small"))
            y += 22
        for bar in found:
            width = room * bar.value / largest
            parts.append(text(left - 10, y + 14, bar.label, anchor="end"))
            parts.append(
                f'<rect x="{left:.1f}" y="{y + 2:.1f}" width="{width:.1f}" height="16" rx="2" class="s{bar.style}"/>'
            )
            if bar.high > bar.low:
                parts.append(
                    segment(
                        left + room * bar.low / largest, y + 10, left + room * bar.high / largest, y + 10, "whisker"
                    )
                )
            parts.append(text(left + room * max(bar.value, bar.high) / largest + 8, y + 14, bar.text))
            y += step
        y += 8
    parts.append(segment(left, top, left, y - 8, "axis"))
    for remark in remarks:
        parts.append(text(left - 10, y + 8, remark, "small", "end"))
        y += 17
    return document(y + 4, title, note, parts)


def decades(low: float, high: float) -> list[float]:
    return [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]


def short(value: float) -> str:
    for factor, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:g}{sign}"
    return f"{value:g}"


@dataclass(frozen=True)
class Scale:
    """A logarithmic scale from `low` to `high` onto the pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = (math.log10(value) - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low) or 1.0)
        return self.start + share * (self.end - self.start)


def lines(
    title: str,
    note: str,
    found: Sequence[Line],
    x_ticks: Sequence[tuple[float, str]],
    unit: str,
) -> str:
    """Lines over two logarithmic axes; each line is named at its right end, so that no legend is needed."""
    left, right, top, bottom = 70.0, WIDTH - 220.0, 82.0, 350.0
    values = [y for line in found for _x, y in line.points]
    ticks = decades(min(values), max(values))
    if len(ticks) == 1:
        ticks.append(ticks[0] * 10)
    x_scale = Scale(x_ticks[0][0], x_ticks[-1][0], left, right)
    y_scale = Scale(ticks[0], ticks[-1], bottom, top)
    parts = [text(left, 66, unit, "small", "middle")]
    for tick in ticks:
        y = y_scale.at(tick)
        parts += [segment(left, y, right, y, "grid"), text(left - 8, y + 4, short(tick), anchor="end")]
    for tick, label in x_ticks:
        parts.append(text(x_scale.at(tick), bottom + 20, label, anchor="middle"))
    taken: list[float] = []
    for line in sorted(found, key=lambda line: y_scale.at(line.points[-1][1])):
        spots = [(x_scale.at(x), y_scale.at(y)) for x, y in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts.append(f'<polyline points="{path}" class="s{line.style} line" style="fill:none"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" class="s{line.style}"/>' for x, y in spots]
        # Overlapping names move down, in the order of their lines.
        y = max([spots[-1][1] + 4, *(other + 16 for other in taken)])
        taken.append(y)
        parts.append(f'<rect x="{right + 12:.1f}" y="{y - 9:.1f}" width="9" height="9" rx="2" class="s{line.style}"/>')
        parts.append(text(right + 27, y, line.label))
    parts.append(segment(left, bottom, right, bottom, "axis"))
    return document(bottom + 32, title, note, parts)
