"""Reads a chart as a person does: by its key and the numbers on its axes."""

import html
import re

import numpy as np

# A number on an axis: its place, which axis it is on, its value.
_NUMBER = r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)"[^>]*>(-?[\d.]+)</text>'


def bars_in(page: str, title: str) -> dict[str, np.ndarray]:
    """The [from, to, height] of each level stretch of a chart's lines, by the name in its key."""
    drawing, _, rest = page[page.index(f'aria-label="{title}: ') :].partition("</svg>")
    names = re.findall(r"</svg>([^<]*)</span>", rest.partition("</div>")[0])
    numbers = re.findall(_NUMBER, drawing)
    across = np.array([(x, value) for x, _, anchor, value in numbers if anchor == "middle"], float)
    up = np.array([(y, value) for _, y, anchor, value in numbers if anchor == "end"], float)
    # The middle of a number is 4 above its baseline.
    x_axis, y_axis = np.polyfit(*across.T, 1), np.polyfit(up[:, 0] - 4, up[:, 1], 1)
    bars = [
        np.array([[*np.polyval(x_axis, ends), np.polyval(y_axis, y)] for *ends, y in _levels(path)])
        for path in re.findall(r'<path d="(M[^"]*V[^"]*)"', drawing)
    ]
    return dict(zip(map(html.unescape, names), bars, strict=True))


def _levels(path: str) -> list[tuple[float, float, float]]:
    levels, x, y = [], 0.0, 0.0
    for command, first, second in re.findall(r"([MVH])([\d.]+),?([\d.]*)", path):
        if command == "H":
            levels.append((x, float(first), y))
        x = x if command == "V" else float(first)
        y = y if command == "H" else float(second or first)
    return levels
