"""How figures and images in the documents look."""

import re

import pytest

from benchmarks import peers_plot, quality_plot
from benchmarks.document_style import PAPER, svg_document, svg_text, without_leading_zeros


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.9633 (0.9584 to 0.9677)", ".9633 (.9584 to .9677)"),
        ("| 10.59 | 0.5% |", "| 10.59 | .5% |"),
        *[(kept, kept) for kept in ("0.10.2", "v0.5", "1.0.3", "100.5", "0")],
    ],
)
def test_leading_zeros(text, expected):
    """Fault: figures in tables that differ in form from those in prose, or lose a digit."""
    assert without_leading_zeros(text) == expected


def test_texts_are_escaped():
    """Fault: a result's name that ends the image."""
    assert "&lt;&amp;" in svg_text(0, 0, "<&")
    assert "&lt;&amp;" in svg_document(1, 1, "<&", [])


@pytest.mark.parametrize("plot", [quality_plot.PLOT, peers_plot.PLOT], ids=lambda path: path.name)
def test_everything_is_visible_on_any_page(plot):
    """Fault: ink that a dark page swallows, or too faint to read (WCAG 2.2: 7 to 1, marks 3)."""
    image = plot.read_text()
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', image)[0]
    background = f'<rect width="{width}" height="{height}" rx="6" fill="{PAPER}"/>'
    assert image.splitlines()[1] == background
    inks = set(re.findall(r'<text[^>]* fill="(#\w+)"', image))
    marks = set(
        re.findall(r'<(?:circle|path)[^>]* fill="(#\w+)"(?: fill-opacity="([\d.]+)")?', image)
    )
    assert inks
    assert marks
    assert min(contrast_to_white(ink) for ink in inks) >= 7
    assert min(contrast_to_white(colour, float(share or 1)) for colour, share in marks) >= 3


def contrast_to_white(colour: str, opacity: float = 1) -> float:
    """Contrast as WCAG 2.2 defines it, of a colour that covers white to a share."""
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    seen = [opacity * channel + 1 - opacity for channel in channels]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in seen]
    luminance = sum(w * x for w, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return 1.05 / (luminance + 0.05)
