"""Parts of a page of HTML, its style, and the words for numbers of things."""

import base64
import html
import io
from collections.abc import Sequence

from PIL import Image

# Most names in a sentence.
MAX_NAMES = 20

STYLE = """
:root { color-scheme: light; --ink: #20242c; --faint: #5f6673; --line: #e3e6eb; --back: #f6f7f9 }
* { box-sizing: border-box }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
main { max-width: 1060px; margin: 0 auto; padding: 32px 16px 64px }
h1 { font-size: 26px; margin: 0 0 2px; overflow-wrap: anywhere }
h2 { font-size: 18px; margin: 36px 0 10px }
h3, caption { font-size: 14px; font-weight: 700; text-align: left }
h3 { margin: 0 0 8px } caption { padding: 0 0 6px }
p { margin: 0 0 10px; max-width: 75ch; overflow-wrap: anywhere }
.lead, .none, figcaption { color: var(--faint) }
.cards, .beside { display: flex; flex-wrap: wrap; gap: 12px }
.cards { margin: 18px 0 } .beside { margin-bottom: 12px }
.card { flex: 1 1 140px } .panel { flex: 1 1 340px; min-width: 0 }
.card, .panel { background: #fff; border: 1px solid var(--line); border-radius: 8px }
.card { padding: 12px 16px } .card b { display: block; font-size: 24px; line-height: 1.2;
  font-variant-numeric: tabular-nums } .card span { color: var(--faint); font-size: 13px }
a.card { color: inherit; text-decoration: none } a.card span { text-decoration: underline }
.card.warn b { color: #b3261e }
.panel { padding: 14px; overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: 5px 10px; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap }
th { font-weight: 400 } thead th { color: var(--faint); font-weight: 500; font-size: 13px }
th:first-child, .text { text-align: left } td.text { white-space: normal }
tbody tr:last-child > * { border-bottom: 0 } tr.sum > * { font-weight: 600 }
svg.chart { display: block; width: 100%; max-width: 520px; height: auto }
.key { display: flex; flex-wrap: wrap; gap: 4px 14px; font-size: 13px; margin-top: 4px }
.key svg { width: 28px; height: 8px; margin-right: 5px }
.masks { display: flex; flex-wrap: wrap; gap: 16px } figure { margin: 0 }
figure img { display: block; border-radius: 6px } figcaption { font-size: 13px; margin-top: 4px }
img.sheet { width: 100%; border: 1px solid var(--line); border-radius: 8px }
summary { margin: 10px 0; cursor: pointer }
"""


def side_by_side(*panels: str) -> str:
    """Returns panels side by side, or below each other where the page is narrow."""
    return f'<div class="beside">{"".join(panels)}</div>'


def panel(content: str, title: str = "") -> str:
    """Returns a panel; a table has a caption of its own in place of a title."""
    heading = f"<h3>{title}</h3>" if title else ""
    return f'<div class="panel">{heading}{content}</div>'


def table(
    caption: str,
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    sums: int = 0,
    text_columns: Sequence[int] = (),
) -> str:
    """Returns a table whose first column names its rows.

    Args:
      caption: its title.
      header: names of the columns.
      rows: cells as text or numbers, escaped here.
      sums: number of last rows in bold.
      text_columns: columns aligned to the left, as the first one is; numbers are to the right.
    """

    def line(cells: Sequence[object], kind: str = "", scopes: Sequence[str] = ("row",)) -> str:
        content = []
        for place, cell in enumerate(cells):
            css = ' class="text"' if place in text_columns else ""
            scope = scopes[place] if place < len(scopes) else ""
            tag, scoped = ("th", f' scope="{scope}"') if scope else ("td", "")
            content.append(f"<{tag}{scoped}{css}>{html.escape(str(cell))}</{tag}>")
        return f"<tr{kind}>{''.join(content)}</tr>"

    body = [
        line(row, ' class="sum"' if place >= len(rows) - sums else "")
        for place, row in enumerate(rows)
    ]
    head = line(header, scopes=["col"] * len(header))
    return (
        f"<table><caption>{html.escape(caption)}</caption><thead>{head}</thead>"
        f"<tbody>{''.join(body)}</tbody></table>"
    )


def noun(number: int, singular: str) -> str:
    """Returns a noun in the number that fits: 1 mask, 2 masks."""
    return singular if number == 1 else f"{singular}s"


def count(number: int, singular: str) -> str:
    """Returns a number with its noun."""
    return f"{number} {noun(number, singular)}"


def some(names: Sequence[str]) -> str:
    """Returns names for a sentence: the first `MAX_NAMES`, and how many more there are."""
    shown, more = ", ".join(names[:MAX_NAMES]), len(names) - MAX_NAMES
    return html.escape(f"{shown} and {more} more" if more > 0 else shown)


def jpeg_address(image: Image.Image) -> str:
    """Returns an image as a data URL, a fifth as long as that of a PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def png_address(image: Image.Image) -> str:
    """Returns an image as a data URL, without loss."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
