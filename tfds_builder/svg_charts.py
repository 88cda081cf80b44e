"""Small charts as inline SVG."""

import html
import math
from collections.abc import Mapping, Sequence

from jaxtyping import Float64
from numpy import ndarray

# Distinguishable with any colour vision (Okabe and Ito 2008), without yellow.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555b66")

LINE, FAINT_INK = "#e3e6eb", "#68707e"

WIDTH, HEIGHT = 440.0, 190.0
LEFT, RIGHT, TOP, BOTTOM = 38.0, 14.0, 8.0, 36.0
BAR, BAR_LABEL, BAR_VALUE = 24.0, 140.0, 60.0


def colour_of(place: int) -> str:
    """Returns the colour of the series at a place; colours repeat after the last."""
    return PALETTE[place % len(PALETTE)]


def histogram_chart(
    edges: Float64[ndarray, " e"],
    series: Mapping[str, Float64[ndarray, " n"]],
    label: str,
) -> str:
    """Returns the shares of the bins as one stepped line for each series, with a key.

    Args:
      edges: edges of the bins, evenly spaced.
      series: counts in the bins, by name; empty series are left out.
      label: label of the horizontal axis.
    """
    shares = {name: counts / counts.sum() for name, counts in series.items() if counts.sum() > 0}
    if not shares:
        return '<p class="none">no values</p>'
    peak = max(float(values.max()) for values in shares.values())
    across = _Scale(float(edges[0]), float(edges[-1]), LEFT, WIDTH - RIGHT)
    up = _Scale(0.0, peak * 1.05, HEIGHT - BOTTOM, TOP)
    parts = [_grid(across, up), _axis_label(label)]
    for place, values in enumerate(shares.values()):
        points = [f"M{across(edges[0]):.1f},{up(0.0):.1f}"]
        points += [
            f"V{up(value):.1f}H{across(end):.1f}"
            for end, value in zip(edges[1:], values, strict=True)
        ]
        path = f"{''.join(points)}V{up(0.0):.1f}"
        colour = colour_of(place)
        parts.append(
            f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6" '
            'stroke-linejoin="round"/>'
        )
    return f"{_svg(HEIGHT, parts, label)}{_key(list(shares))}"


def bar_chart(values: Mapping[str, int], label: str) -> str:
    """Returns a horizontal bar with its number for each value."""
    if not values:
        return '<p class="none">no values</p>'
    highest = max(values.values()) or 1
    parts = []
    for place, (name, value) in enumerate(values.items()):
        middle = place * BAR + BAR / 2 + 4
        length = (WIDTH - BAR_LABEL - BAR_VALUE) * value / highest
        parts += [
            _text(BAR_LABEL - 8, middle, _clip(name, 22), "end"),
            f'<rect x="{BAR_LABEL}" y="{place * BAR + 4}" width="{length:.1f}" '
            f'height="{BAR - 8}" rx="2" fill="{PALETTE[0]}"/>',
            _text(BAR_LABEL + length + 6, middle, f"{value}", "start"),
        ]
    return _svg(len(values) * BAR + 4, parts, label)


class _Scale:
    """Maps values of an axis to positions in the drawing."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high = low, high
        self._start, self._per_unit = start, (end - start) / (high - low)

    def __call__(self, value: float) -> float:
        return self._start + (float(value) - self.low) * self._per_unit

    def ticks(self, about: int) -> list[float]:
        """Returns round values along the axis, about as many as asked for."""
        rough = (self.high - self.low) / about
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _grid(across: _Scale, up: _Scale) -> str:
    parts = []
    for tick in up.ticks(4):
        y = up(tick)
        parts.append(f'<path d="M{LEFT},{y:.1f}H{WIDTH - RIGHT}" stroke="{LINE}"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{100 * tick:.3g}%", "end"))
    under = HEIGHT - BOTTOM + 15
    parts += [_text(across(tick), under, f"{tick:.4g}", "middle") for tick in across.ticks(6)]
    return "".join(parts)


def _axis_label(label: str) -> str:
    return _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, label, "middle")


def _key(names: Sequence[str]) -> str:
    items = [
        f'<span><i style="background:{colour_of(place)}"></i>{html.escape(name)}</span>'
        for place, name in enumerate(names)
    ]
    return f'<div class="key">{"".join(items)}</div>'


def _svg(height: float, parts: Sequence[str], label: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-label="{html.escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} font-size="11" fill="{FAINT_INK}">{html.escape(text)}</text>'


def _clip(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
