"""Charts as inline SVG: numbers in, markup out. Colours come from the page's CSS variables, so both themes work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 56, 16, 12, 36


@dataclass(frozen=True)
class Line:
    """A curve: `x` and `y` of one length; `style` is a CSS class of the page."""

    name: str
    style: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart: a value and what it is compared with, None where there is no figure."""

    name: str
    value: float | None
    compared: float | None


@dataclass(frozen=True)
class Scale:
    """A linear map of [low, high] to [start, stop] pixels."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low or 1.0
        return round(self.start + (value - self.low) / span * (self.stop - self.start), 1)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers within [low, high], about `count` of them, 1, 2 or 5 times a power of ten apart."""
    if not high > low:
        return [low]
    rough = (high - low) / max(1, count)
    power = 10.0 ** np.floor(np.log10(rough))
    step = power * min((m for m in (1, 2, 5, 10) if m * power >= rough), default=10)
    first = np.ceil(low / step - 1e-9)
    return [float(np.round(i * step, 10)) + 0.0 for i in np.arange(first, np.floor(high / step + 1e-9) + 1)]


def curves(lines: Sequence[Line], x_title: str, width: int = 520, height: int = 300) -> Markup:
    """Curves over a common x axis, with a legend. Empty markup without a point."""
    lines = [line for line in lines if line.x]
    if not lines:
        return Markup()
    xs, ys = np.concatenate([line.x for line in lines]), np.concatenate([line.y for line in lines])
    low, high = min(0.0, float(ys.min())), float(ys.max()) * 1.05 or 1.0
    x = Scale(float(xs.min()), float(xs.max()), MARGIN_LEFT, width - MARGIN_RIGHT)
    y = Scale(low, high, height - MARGIN_BOTTOM, MARGIN_TOP)
    parts = [_grid(x, y, width, height), _text(width - MARGIN_RIGHT, height - 6, x_title, "end")]
    for index, line in enumerate(lines):
        points = " ".join(f"{x(a)},{y(b)}" for a, b in zip(line.x, line.y, strict=True))
        parts.append(Markup('<polyline class="line {}" points="{}"/>').format(line.style, points))
        if len(line.x) == 1:
            parts.append(
                Markup('<circle class="{}" cx="{}" cy="{}" r="3"/>').format(line.style, x(line.x[0]), y(line.y[0]))
            )
        at = MARGIN_LEFT + 12 + 190 * index
        parts.append(Markup('<rect class="{}" x="{}" y="2" width="12" height="4"/>').format(line.style, at))
        parts.append(_text(at + 18, 9, line.name))
    return _svg(width, height, parts)


def bars(rows: Sequence[Bar], width: int = 720) -> Markup:
    """Horizontal pairs: the value, and a tick where what it is compared with stands. The axis ends at one."""
    if not rows:
        return Markup()
    left, height_each = 180, 20
    height = len(rows) * height_each + MARGIN_BOTTOM
    known = [v for row in rows for v in (row.value, row.compared) if v is not None]
    x = Scale(max(-1.0, min([0.0, *known])), 1.0, left, width - 64)
    parts = []
    for tick in ticks(x.low, x.high):
        parts.append(Markup('<line class="grid" x1="{0}" x2="{0}" y1="0" y2="{1}"/>').format(x(tick), height - 24))
        parts.append(_text(x(tick), height - 8, _number(tick), "middle"))
    for index, row in enumerate(rows):
        top = index * height_each
        parts.append(_text(left - 8, top + 14, _cut(row.name, 26), "end", "name"))
        if row.value is None or row.compared is None:
            parts.append(_text(left + 4, top + 14, "does not vary here"))
            continue
        begin, end = sorted((x(0.0), x(max(row.value, x.low))))
        box = Markup('<rect class="ours" x="{}" y="{}" width="{}" height="12" rx="2"/>')
        parts.append(box.format(begin, top + 4, round(end - begin, 1)))
        mark = Markup('<line class="mark" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>')
        parts.append(mark.format(x(max(row.compared, x.low)), top + 1, top + 19))
        parts.append(_text(width, top + 14, f"{row.value:.3f}", "end"))
    return _svg(width, height, parts)


def weights(rows: Sequence[tuple[str, float]], width: int = 460) -> Markup:
    """Horizontal bars from zero to either side, each with its name and figure; the largest reaches the edge."""
    if not rows:
        return Markup()
    left, right, height_each = 200, 48, 18
    values = [value for _, value in rows]
    low, high = min(0.0, *values), max(0.0, *values)
    x = Scale(low, high if high > low else 1.0, left, width - right)
    parts = []
    for index, (name, value) in enumerate(rows):
        top = index * height_each
        begin, end = sorted((x(0.0), x(value)))
        box = Markup('<rect class="{}" x="{}" y="{}" width="{}" height="11" rx="2"/>')
        parts.append(_text(left - 8, top + 13, _cut(name, 27), "end", "term"))
        parts.append(box.format("ours" if value >= 0 else "theirs", begin, top + 3, round(end - begin, 1)))
        parts.append(_text(width, top + 13, f"{value:.2f}".replace("-", "−"), "end"))
    axis = Markup('<line class="zero" x1="{0}" x2="{0}" y1="0" y2="{1}"/>')
    return _svg(width, len(rows) * height_each + 2, [*parts, axis.format(x(0.0), len(rows) * height_each)])


def scatter(points: np.ndarray, styles: Sequence[str], width: int = 520, height: int = 380) -> Markup:
    """Points (rows, 2), each with a CSS class or colour style. The outermost half per cent is drawn at the edge."""
    if len(points) == 0:
        return Markup()
    low, high = np.quantile(points, [0.005, 0.995], axis=0)
    high = np.where(high > low, high, low + 1)
    x = Scale(float(low[0]), float(high[0]), 8, width - 8)
    y = Scale(float(low[1]), float(high[1]), height - 8, 8)
    inside = np.clip(points, low, high)
    circle = '<circle {} cx="{}" cy="{}" r="2.4"/>'
    drawn = [circle.format(style, x(a), y(b)) for (a, b), style in zip(inside.tolist(), styles, strict=True)]
    return _svg(width, height, [Markup("".join(drawn))], "scatter")


def _grid(x: Scale, y: Scale, width: int, height: int) -> Markup:
    parts = []
    for tick in ticks(y.low, y.high):
        line = Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>')
        parts.append(line.format(MARGIN_LEFT, width - MARGIN_RIGHT, y(tick), y(tick)))
        parts.append(_text(MARGIN_LEFT - 8, y(tick) + 4, _number(tick), "end"))
    for tick in ticks(x.low, x.high, 6):
        parts.append(_text(x(tick), height - MARGIN_BOTTOM + 16, _number(tick), "middle"))
    return Markup().join(parts)


def _text(x: float, y: float, text: str, anchor: str = "start", style: str = "") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(style, x, y, anchor, text)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value + 0.0:g}"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _svg(width: int, height: int, parts: Sequence[Markup], style: str = "") -> Markup:
    head = Markup('<svg class="{}" viewBox="0 0 {} {}" role="img">').format(style, width, height)
    return head + Markup().join(escape(p) for p in parts) + Markup("</svg>")
