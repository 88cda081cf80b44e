"""What the person at the terminal sees: notices, a progress bar, tables."""

import sys
from collections.abc import Sequence

from tqdm import tqdm


def say(message: str) -> None:
    """Writes one line to standard error, above any progress bar; standard output stays data."""
    tqdm.write(message, file=sys.stderr)


def progress(description: str, total: int, unit: str, initial: int = 0) -> tqdm:
    """Returns a progress bar with rate and time left, silent when not on a terminal."""
    return tqdm(
        desc=description,
        total=total,
        initial=initial,
        unit=unit,
        disable=None,
        dynamic_ncols=True,
        smoothing=0.05,
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns rows of text aligned under their header; the first column to the left."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]
    lines = []
    for row in (header, ["-" * width for width in widths], *rows):
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells))
    return "\n".join(lines)
