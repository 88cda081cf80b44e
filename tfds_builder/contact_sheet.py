"""A sheet of small images of records with the outlines of their masks."""

import dataclasses
import functools
import operator
import unicodedata
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image, ImageDraw, ImageFont

from lungseg_jax.imaging.overlay import REFERENCE_COLOURS, Colour, draw_outlines
from lungseg_jax.imaging.structures import Structure

ROWS, COLUMNS = 6, 8

# In pixels.
TILE, GAP, LABEL, HEADER = 224, 12, 36, 40

BACKGROUND, INK, FAINT_INK = (255, 255, 255), (32, 36, 44), (95, 102, 115)
WARNING_INK = (179, 38, 30)

# Sides are drawn over the lungs, so that only lung of unknown side stays in the lungs' colour.
COLOURS: dict[Structure, Colour] = {
    Structure.LUNGS: REFERENCE_COLOURS[0],
    Structure.RIGHT_LUNG: REFERENCE_COLOURS[0],
    Structure.LEFT_LUNG: REFERENCE_COLOURS[1],
    Structure.HEART: (255, 104, 88),
    Structure.CLAVICLES: (240, 232, 96),
}

# Letters and signs that Unicode does not take apart into a letter of ASCII and a mark.
_IN_ASCII = str.maketrans(
    {"ß": "ss", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "æ": "ae", "Æ": "AE",
     "œ": "oe", "Œ": "OE", "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th", "—": "-",
     "ı": "i", "–": "-", "’": "'"}  # noqa: RUF001
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Shown:
    """An image on the sheet.

    Attributes:
      example_id: its id.
      split: the split that it is in.
      source: where it is from.
      has_lung: whether its mask has lung.
    """

    example_id: str
    split: str
    source: str
    has_lung: bool


class ContactSheet:
    """Images of a few records, chosen at random; the same for the same number of records.

    Args:
      total: number of records that will be shown to the sheet, in a fixed order.
    """

    def __init__(self, total: int) -> None:
        chosen = np.random.default_rng(0).permutation(total)[: ROWS * COLUMNS]
        self._place_of = {int(position): place for place, position in enumerate(chosen)}
        self._sheet = Image.new("RGB", _sheet_size(len(chosen)), BACKGROUND)
        self._drawn = Structure(0)
        self._shown: dict[int, Shown] = {}

    def add(self, position: int, split: str, record: Mapping[str, Any]) -> None:
        """Draws a record into its place if it is among those chosen.

        Args:
          position: the record's position in the order of all records.
          split: the record's split.
          record: the decoded record.
        """
        place = self._place_of.get(position)
        if place is None:
            return
        row, column = divmod(place, COLUMNS)
        left = GAP + column * (TILE + GAP)
        top = HEADER + row * (TILE + LABEL + GAP)
        mask = record["mask"][..., 0]
        shown = Shown(
            example_id=record["example_id"].decode(),
            split=split,
            source=record["source"].decode(),
            has_lung=bool((mask & np.uint8(Structure.LUNGS)).any()),
        )
        self._shown[place] = shown
        self._drawn |= _drawn(mask)
        self._sheet.paste(Image.fromarray(_tile(record["image"][..., 0], mask)), (left, top))
        draw = ImageDraw.Draw(self._sheet)
        if not shown.has_lung:
            draw.rectangle((left, top, left + 64, top + 22), BACKGROUND)
            _write(draw, (left + 8, top + 3), "no lung", WARNING_INK)
        _write(draw, (left, top + TILE + 3), in_ascii(shown.example_id), INK)
        where = f"{in_ascii(split)} · {in_ascii(shown.source)}"
        _write(draw, (left, top + TILE + 18), where, FAINT_INK)

    def shown(self) -> dict[int, Shown]:
        """Returns the images by their place, counted from 0 along the rows."""
        return dict(sorted(self._shown.items()))

    def key(self) -> dict[Colour, str]:
        """Returns what each colour on the sheet stands for."""
        names: dict[Colour, list[str]] = {}
        for structure, colour in COLOURS.items():
            if structure & self._drawn:
                name = str(structure.name).lower().replace("_", " ")
                names.setdefault(colour, []).append(name)
        return {colour: " or ".join(found) for colour, found in names.items()}

    def image(self) -> Image.Image:
        """Returns the sheet so far, with a key at its top to the colours drawn on it."""
        sheet = self._sheet.copy()
        draw, left = ImageDraw.Draw(sheet), GAP
        for colour, name in self.key().items():
            draw.rounded_rectangle((left, 16, left + 16, 24), 3, colour)
            _write(draw, (left + 22, 12), name, INK)
            left += 48 + int(_font().getlength(name))
        return sheet


def in_ascii(text: str) -> str:
    """Returns a text in the letters that Pillow's own font has; `?` for those of other scripts."""
    letters = unicodedata.normalize("NFKD", text.translate(_IN_ASCII))
    without_marks = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return "".join(x if x.isascii() and x.isprintable() else "?" for x in without_marks)


def _tile(
    image: UInt16[np.ndarray, "s s"], mask: UInt8[np.ndarray, "s s"]
) -> UInt8[np.ndarray, "t t 3"]:
    # Enlarged by copying, so that the pixels of a small image remain visible as such.
    method = cv2.INTER_AREA if len(image) > TILE else cv2.INTER_NEAREST
    pixels = cv2.resize(image.astype(np.float32) / 65535, (TILE, TILE), interpolation=method)
    masks = []
    for structure, colour in COLOURS.items():
        inside = ((mask & np.uint8(structure)) > 0).astype(np.float32)
        share = cv2.resize(inside, (TILE, TILE), interpolation=method)
        masks.append((share > 0.5, colour))
    return draw_outlines(pixels, masks)


def _drawn(mask: UInt8[np.ndarray, "s s"]) -> Structure:
    """Returns the structures whose colour shows: lungs only if no side is drawn over them."""
    values = [Structure(int(value)) for value in np.unique(mask)]
    sides = Structure.RIGHT_LUNG | Structure.LEFT_LUNG
    shown = (value & ~Structure.LUNGS if value & sides else value for value in values)
    return functools.reduce(operator.or_, shown)


def _sheet_size(images: int) -> tuple[int, int]:
    # As wide for few images as for many, because the key needs the width.
    rows = -(-images // COLUMNS)
    return GAP + COLUMNS * (TILE + GAP), HEADER + rows * (TILE + LABEL + GAP)


def _write(draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, ink: Colour) -> None:
    draw.text(corner, _shorten(text), ink, _font())


def _shorten(text: str) -> str:
    """Cuts the middle out of a text wider than a tile; ids differ at their ends."""
    short, kept = text, len(text)
    while kept > 2 and _font().getlength(short) > TILE:
        kept -= 1
        short = f"{text[: kept // 2]}…{text[-(kept - kept // 2) :]}"
    return short


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(13)
