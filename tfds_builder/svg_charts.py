"""Small charts as inline SVG."""

import html
import math
from collections.abc import Mapping, Sequence

from jaxtyping import Float64
from numpy import ndarray

# The first four, by Okabe and Ito (2008), are distinguishable with any colour vision; all have a
# contrast of at least 3 to white.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#6a3d9a", "#8a6d00", "#555b66")

# Lengths of dashes and gaps of the lines in these colours: where a few lines coincide, those below
# show through the gaps.
DASHES = ("none", "9 4", "3 3", "9 3 3 3", "6 6", "9 3 2 3 2 3", "1.5 4")

LINE, FAINT_INK = "#e3e6eb", "#5f6673"

WIDTH, HEIGHT, FONT_SIZE = 400.0, 200.0, 12
LEFT, RIGHT, TOP, BOTTOM = 52.0, 14.0, 8.0, 40.0
BAR, BAR_LABEL, BAR_VALUE = 24.0, 130.0, 60.0


def histogram_chart(
    title: str,
    edges: Float64[ndarray, " e"],
    series: Mapping[str, Float64[ndarray, " n"]],
    across_label: str,
    up_label: str,
) -> str:
    """Returns the percentages of the bins as one stepped line for each series, with a key.

    Args:
      title: what the chart is of, for those who cannot see it.
      edges: edges of the bins, evenly spaced.
      series: counts in the bins, by name; empty series are left out.
      across_label: label of the horizontal axis.
      up_label: label of the vertical axis: what the percentages are of.
    """
    percentages = {
        name: 100 * counts / counts.sum() for name, counts in series.items() if counts.sum() > 0
    }
    if not percentages:
        return '<p class="none">no values</p>'
    peak = max(float(values.max()) for values in percentages.values())
    across = _Scale(float(edges[0]), float(edges[-1]), LEFT, WIDTH - RIGHT)
    up = _Scale(0.0, peak * 1.05, HEIGHT - BOTTOM, TOP)
    parts = [_grid(across, up), _axis_labels(across_label, up_label)]
    for place, values in enumerate(percentages.values()):
        parts.append(f'<path d="{_steps(across, up, edges, values)}" {_stroke(place)}/>')
    label = f"{title}: {up_label} by {across_label}; lines: {', '.join(percentages)}"
    return f"{_svg(HEIGHT, parts, label)}{_key(list(percentages))}"


def round_step(least: float) -> float:
    """Returns the smallest of 1, 2 and 5 times a power of ten that is at least a positive value."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * 0.999)


def bar_chart(title: str, values: Mapping[str, int]) -> str:
    """Returns a horizontal bar with its number for each value, and the title as its name."""
    if not values:
        return '<p class="none">no values</p>'
    highest = max(values.values()) or 1
    parts = []
    for place, (name, value) in enumerate(values.items()):
        middle = place * BAR + BAR / 2 + 4
        length = (WIDTH - BAR_LABEL - BAR_VALUE) * value / highest
        parts += [
            _text(BAR_LABEL - 8, middle, _clip(name, 20), "end"),
            f'<rect x="{BAR_LABEL}" y="{place * BAR + 4}" width="{length:.1f}" '
            f'height="{BAR - 8}" rx="2" fill="{PALETTE[0]}"/>',
            _text(BAR_LABEL + length + 6, middle, f"{value}", "start"),
        ]
    numbers = ", ".join(f"{name} {value}" for name, value in values.items())
    return _svg(len(values) * BAR + 4, parts, f"{title}: {numbers}")


class _Scale:
    """Maps values of an axis to positions in the drawing."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high = low, high
        self._start, self._per_unit = start, (end - start) / (high - low)

    def __call__(self, value: float) -> float:
        return self._start + (float(value) - self.low) * self._per_unit

    def ticks(self, about: int) -> list[float]:
        """Returns round values along the axis, about as many as asked for."""
        step = round_step((self.high - self.low) / about)
        first = math.ceil(self.low / step - 1e-9)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _steps(
    across: _Scale, up: _Scale, edges: Float64[ndarray, " e"], values: Float64[ndarray, " n"]
) -> str:
    """Returns the outline of a histogram's bars, as the data of an SVG path.

    Along empty bins nothing is drawn: there the lines of all series would hide each other.
    """
    bottom = f"{up(0.0):.1f}"
    parts = [f"M{across(edges[0]):.1f},{bottom}"]
    for end, value in zip(edges[1:], values, strict=True):
        right = f"{across(end):.1f}"
        parts.append(f"V{up(value):.1f}H{right}" if value else f"V{bottom}M{right},{bottom}")
    return f"{''.join(parts)}V{bottom}"


def _grid(across: _Scale, up: _Scale) -> str:
    parts = []
    for tick in up.ticks(4):
        y = up(tick)
        parts.append(f'<path d="M{LEFT},{y:.1f}H{WIDTH - RIGHT}" stroke="{LINE}"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{tick:.3g}", "end"))
    under = HEIGHT - BOTTOM + 16
    parts += [_text(across(tick), under, f"{tick:.6g}", "middle") for tick in across.ticks(6)]
    return "".join(parts)


def _axis_labels(across_label: str, up_label: str) -> str:
    across = _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, across_label, "middle")
    up, middle = _text(0.0, 0.0, up_label, "middle"), (TOP + HEIGHT - BOTTOM) / 2
    return f'{across}<g transform="translate(13 {middle}) rotate(-90)">{up}</g>'


def _stroke(place: int) -> str:
    """Returns what tells the line of the series at a place apart; it repeats after the last."""
    place %= len(PALETTE)
    return (
        f'fill="none" stroke="{PALETTE[place]}" stroke-dasharray="{DASHES[place]}" '
        'stroke-width="1.8" stroke-linejoin="round"'
    )


def _key(names: Sequence[str]) -> str:
    items = [
        f'<span><svg viewBox="0 0 28 8" aria-hidden="true"><path d="M0,4H28" {_stroke(place)}/>'
        f"</svg>{html.escape(name)}</span>"
        for place, name in enumerate(names)
    ]
    return f'<div class="key">{"".join(items)}</div>'


def _svg(height: float, parts: Sequence[str], label: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH:g} {height:g}" role="img" '
        f'aria-label="{html.escape(label)}">{"".join(parts)}</svg>'
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} font-size="{FONT_SIZE}" fill="{FAINT_INK}">{html.escape(text)}</text>'


def _clip(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
