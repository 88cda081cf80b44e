"""Plots true against estimated Dice from the committed result files.

  python -m benchmarks.quality_plot

Writes `docs/quality.svg`: a panel for each protocol, a dot for each test image.
"""

import html
from collections.abc import Callable
from typing import Any

from benchmarks.command import call_with_arguments
from benchmarks.result_files import RESULTS, read_result
from tfds_builder.svg_charts import PALETTE

PLOT = RESULTS.parent.parent / "docs" / "quality.svg"

# Result files, and what their test images are to the network.
PANELS = {
    "accuracy_pooled": "hospitals it was trained on",
    "accuracy_montgomery_to_shenzhen": "Montgomery → Shenzhen",
    "accuracy_shenzhen_to_montgomery": "Shenzhen → Montgomery",
    "accuracy_phantoms_to_real": "phantoms → real",
}

# Grey of about the same contrast to white and to a dark page.
INK = "#7a838e"

# Dice at the lower end of both axes; lower values are drawn there.
LOW = 0.8
SIDE, GAP, LEFT, TOP, BOTTOM = 210, 30, 48, 34, 44


def chart(panels: dict[str, dict[str, Any]]) -> str:
    """Returns an SVG document of the results' `quality` entries, given by title."""
    parts = []
    for number, (title, quality) in enumerate(panels.items()):
        parts += _panel(LEFT + number * (SIDE + GAP), title, quality)
    parts.append(_text(14, TOP + SIDE / 2, "Dice", turned=True))
    width, height = LEFT + len(panels) * (SIDE + GAP), TOP + SIDE + BOTTOM
    drawing = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'aria-label="Estimated and true Dice of test images" '
        f'font-family="system-ui, sans-serif" font-size="12">\n{drawing}\n</svg>\n'
    )


def _panel(left: float, title: str, quality: dict[str, Any]) -> list[str]:
    def across(value: float) -> float:
        return left + (max(LOW, value) - LOW) / (1 - LOW) * SIDE

    def up(value: float) -> float:
        return TOP + SIDE - (max(LOW, value) - LOW) / (1 - LOW) * SIDE

    parts = [
        _text(left + SIDE / 2, 16, title, weight="600"),
        _text(left + SIDE / 2, TOP + SIDE + 36, "estimated Dice"),
        f'<path d="M{left},{TOP}V{TOP + SIDE}H{left + SIDE}" fill="none" stroke="{INK}"/>',
        _line(across, up, (LOW, LOW), (1, 1), 0.9),
        _line(across, up, (LOW, 0.9), (1, 0.9), 0.4),
    ]
    for value in (0.8, 0.9, 1.0):
        parts.append(_text(across(value), TOP + SIDE + 18, f"{value:g}"))
        parts.append(_text(left - 14, up(value) + 4, f"{value:g}"))
    parts += [
        f'<circle cx="{across(estimate):.1f}" cy="{up(dice):.1f}" r="2.5" fill="{PALETTE[0]}" '
        'fill-opacity="0.6"/>'
        for estimate, dice in quality["points"]
    ]
    rank = f"rank correlation {quality['rank_correlation']:.2f}"
    parts.append(_text(left + 68, TOP + 14, rank))
    return parts


def _line(
    across: Callable[[float], float],
    up: Callable[[float], float],
    start: tuple[float, float],
    end: tuple[float, float],
    opacity: float,
) -> str:
    return (
        f'<path d="M{across(start[0]):.1f},{up(start[1]):.1f}L{across(end[0]):.1f},'
        f'{up(end[1]):.1f}" stroke="{INK}" stroke-opacity="{opacity}" stroke-dasharray="4 3"/>'
    )


def _text(x: float, y: float, text: str, *, weight: str = "400", turned: bool = False) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle" font-weight="{weight}" '
        f'fill="{INK}"{turn}>{html.escape(text)}</text>'
    )


def read_results() -> dict[str, dict[str, Any]]:
    """Returns the `quality` entries of the committed results, by title."""
    return {title: read_result(name)["quality"] for name, title in PANELS.items()}


def main() -> None:
    """Draws the image."""
    PLOT.write_text(chart(read_results()))


if __name__ == "__main__":
    call_with_arguments(main, __doc__)
