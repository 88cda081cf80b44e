"""What the person at the terminal sees: notices, a progress bar, tables."""

import contextlib
import errno
import os
import re
import sys
import time
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from tqdm import tqdm

# Between lines that tell how far a command is, where there is no terminal for a bar.
LINE_SECONDS = 60.0

# Control characters, which a terminal obeys (C0 and C1, ISO/IEC 6429), as Python escapes.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
_CONTROLS_BUT_LINE_ENDS = {code: text for code, text in _CONTROLS.items() if chr(code) != "\n"}


def say(message: str) -> None:
    """Writes to standard error, above any progress bar; standard output is kept for data.

    Names of files may hold control characters: all but line ends are written as escapes.
    """
    tqdm.write(message.translate(_CONTROLS_BUT_LINE_ENDS), file=_StandardError())


def show(text: str) -> None:
    """Writes what was asked for to standard output: help, a table.

    Control characters, and what the output's encoding lacks, are written as escapes.
    """
    encoding = sys.stdout.encoding or "utf-8"
    shown = text.translate(_CONTROLS_BUT_LINE_ENDS).encode(encoding, "backslashreplace")
    try:
        tqdm.write(shown.decode(encoding), file=sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read it, such as head, has enough; at its end Python would flush once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def on_one_line(name: str) -> str:
    """Returns a file's name for use in a message, with line ends escaped too."""
    return name.translate(_CONTROLS)


def without_numbers(text: str) -> str:
    """Returns a text without its numbers, by which otherwise equal messages differ."""
    return re.sub(r"\d+(\.\d+)?", "#", text)


def progress(description: str, total: int, unit: str, initial: int = 0) -> tqdm:
    """Returns a progress bar with rate and time left; a line a minute when not on a terminal."""
    if not sys.stderr.isatty():
        return _Lines(description, total, unit, initial)
    return tqdm(
        desc=description,
        total=total,
        initial=initial,
        unit=unit,
        dynamic_ncols=True,
        smoothing=0.05,
        file=_StandardError(),
    )


class _Lines(tqdm):
    """In place of a bar, which a file would keep every state of."""

    def __init__(self, description: str, total: int, unit: str, initial: int) -> None:
        super().__init__(total=total, initial=initial, disable=True)
        self._description, self._unit = description, unit
        self._told_at, self._told, self._more = time.monotonic(), initial, ""

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:  # noqa: ARG002
        self._more = s

    def update(self, n: int | float | None = 1) -> None:
        self.n += n or 0
        passed = time.monotonic() - self._told_at
        if passed > LINE_SECONDS:
            more = self._more or f"{(self.n - self._told) / passed:.3g} a second"
            self._told_at, self._told = time.monotonic(), self.n
            say(f"{self._description}: {self.n} of {self.total} {self._unit}s, {more}")


class _StandardError:
    """Standard error, whose reader may be gone, or which may be a file on a full disk.

    What is going on ends as it would have, and saves what it would have saved.
    """

    def write(self, text: str) -> None:
        with _may_be_lost():
            sys.stderr.write(text)

    def flush(self) -> None:
        with _may_be_lost():
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


# A closed terminal, the end of a pipe; for a log in a file, a full disk, a quota, a limit.
_LOST = (errno.EIO, errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def _may_be_lost() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _LOST:
            raise


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns rows of text aligned under their header; the first column to the left."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(_width, column)) for column in columns]
    lines = []
    for row in (header, ["-" * width for width in widths], *rows):
        blanks = [" " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)]
        first, *others = row
        cells = [first + blanks[0]]
        cells += [blank + cell for cell, blank in zip(others, blanks[1:], strict=True)]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def _width(text: str) -> int:
    """Returns how many columns of a terminal a text takes: Chinese letters take two (UAX #11)."""
    letters = [letter for letter in text if not unicodedata.combining(letter)]
    return sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in letters)
