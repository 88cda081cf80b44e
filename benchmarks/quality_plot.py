"""Plots true against estimated Dice from the committed result files.

  python -m benchmarks.quality_plot

Writes `docs/quality.svg`: a panel for each protocol, a dot for each test image.
"""

from typing import Any

from benchmarks.command import call_with_arguments
from benchmarks.document_style import GRID, INK, svg_document, svg_text
from benchmarks.result_files import RESULTS, read_result
from lungseg_jax.prediction.plausibility import MIN_DICE
from tfds_builder.svg_charts import PALETTE

PLOT = RESULTS.parent.parent / "docs" / "quality.svg"

# Result files, and what their test images are to the network.
PANELS = {
    "accuracy_pooled": "hospitals it was trained on",
    "accuracy_montgomery_to_shenzhen": "Montgomery → Shenzhen",
    "accuracy_shenzhen_to_montgomery": "Shenzhen → Montgomery",
    "accuracy_phantoms_to_real": "phantoms → real",
}

# Lower end of both axes; images with a lower value are drawn there, as triangles.
LOW = 0.8
SIDE, COLUMNS = 310, 2
LEFT, RIGHT, TOP, BOTTOM = 60, 16, 52, 50

# Dots that overlap darken; a single one still has a contrast of 3.6 to the paper.
OPACITY = 0.8


def chart(panels: dict[str, dict[str, Any]]) -> str:
    """Returns an SVG document of the results' `quality` entries, given by title."""
    parts = []
    for number, (title, quality) in enumerate(panels.items()):
        row, column = divmod(number, COLUMNS)
        left, top = column * (LEFT + SIDE + RIGHT) + LEFT, row * (TOP + SIDE + BOTTOM) + TOP
        parts += _panel(left, top, title, quality)
    rows = -(-len(panels) // COLUMNS)
    width, height = COLUMNS * (LEFT + SIDE + RIGHT), rows * (TOP + SIDE + BOTTOM)
    return svg_document(width, height, "True over estimated Dice of test images", parts)


def _panel(left: float, top: float, title: str, quality: dict[str, Any]) -> list[str]:
    right, bottom, points = left + SIDE, top + SIDE, quality["points"]
    images = f"{len(points)} images, rank correlation {quality['rank_correlation']:.2f}"
    parts = [
        svg_text(left + SIDE / 2, top - 30, title, weight="600"),
        svg_text(left + SIDE / 2, top - 12, images),
        svg_text(left + SIDE / 2, bottom + 38, "estimated Dice"),
        svg_text(left - 40, top + SIDE / 2, "Dice", turned=-90),
    ]
    for value in (0.8, 0.85, 0.9, 0.95, 1.0):
        x, y = left + _along(value), bottom - _along(value)
        parts.append(f'<path d="M{left},{y:.1f}H{right}M{x:.1f},{top}V{bottom}" stroke="{GRID}"/>')
        parts.append(svg_text(x, bottom + 18, f"{value:g}"))
        parts.append(svg_text(left - 8, y + 4, f"{value:g}", anchor="end"))
    return [*parts, *_lines(left, top), *_marks(left, bottom, points)]


def _lines(left: float, top: float) -> list[str]:
    """Returns the lines that dots are judged by, each with what it is."""
    bottom, bound = top + SIDE, left + _along(MIN_DICE)
    middle = _along(MIN_DICE) / 2
    return [
        f'<path d="M{left},{top}V{bottom}H{left + SIDE}" fill="none" stroke="{INK}"/>',
        f'<path d="M{left},{bottom}L{left + SIDE},{top}M{bound:.1f},{top}V{bottom}" fill="none" '
        f'stroke="{INK}" stroke-dasharray="4 3"/>',
        svg_text(left + middle - 5, bottom - middle - 5, "estimate = Dice", turned=-45),
        svg_text(bound - 8, top + 20, f"← rejected below {MIN_DICE:g}", anchor="end"),
    ]


def _marks(left: float, bottom: float, points: list[list[float]]) -> list[str]:
    """Returns a dot for each image, or a triangle at the axis for one that lies below it."""
    parts, low = [], 0
    for estimate, dice in points:
        x, y = left + _along(estimate), bottom - _along(dice)
        fill = f'fill="{PALETTE[0]}" fill-opacity="{OPACITY}"'
        if min(estimate, dice) < LOW:
            low += 1
            parts.append(f'<path d="M{x - 5:.1f},{y - 9:.1f}h10l-5,9z" {fill}/>')
        else:
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" {fill}/>')
    if low:
        # Under the diagonal and left of the bound, where no estimate lies.
        x = left + _along(MIN_DICE) - 8
        parts.append(svg_text(x, bottom - 10, f"▼ {low} below {LOW:g}", anchor="end"))
    return parts


def _along(value: float) -> float:
    """Returns how far along an axis a value lies."""
    return (max(LOW, value) - LOW) / (1 - LOW) * SIDE


def read_results() -> dict[str, dict[str, Any]]:
    """Returns the `quality` entries of the committed results, by title."""
    return {title: read_result(name)["quality"] for name, title in PANELS.items()}


def main() -> None:
    """Draws the image."""
    PLOT.write_text(chart(read_results()))


if __name__ == "__main__":
    call_with_arguments(main, __doc__)
