"""How figures and images in README, docs and model card look."""

import html
import re
from collections.abc import Sequence

# On the white that `svg_document` lays under every image, because pages may be white or dark.
INK, GRID = "#24292f", "#aab2bd"
PAPER = "#ffffff"


def without_leading_zeros(text: str) -> str:
    """Returns a text whose numbers below one begin with the point, as in the documents' prose.

    Versions, which have several points, stay as they are.
    """
    return re.sub(r"(?<![\w.])0(?=\.\d+(?!\.?\d))", "", text)


def svg_document(width: float, height: float, label: str, parts: Sequence[str]) -> str:
    """Returns an SVG document of parts on paper."""
    drawing = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{html.escape(label)}" font-family="system-ui, sans-serif" font-size="12">\n'
        f'<rect width="{width}" height="{height}" rx="6" fill="{PAPER}"/>\n{drawing}\n</svg>\n'
    )


def svg_text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "middle",
    weight: str = "400",
    turned: float = 0,
) -> str:
    """Returns a text.

    Args:
      x: place of the anchor.
      y: place of the base line.
      text: what it says.
      anchor: the end or middle that lies at the place.
      weight: of the font.
      turned: degrees by which it is turned about its place, clockwise.
    """
    turn = f' transform="rotate({turned:g} {x:.1f} {y:.1f})"' if turned else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="{INK}"{turn}>{html.escape(without_leading_zeros(text))}</text>'
    )
