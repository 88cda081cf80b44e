"""The sheet shows what is in the records, and says what it shows."""

import numpy as np
import pytest
from PIL import Image, ImageFont

from lungseg_jax.imaging.overlay import PREDICTION_COLOURS, REFERENCE_COLOURS
from lungseg_jax.imaging.structures import Structure
from tests.stored import example
from tfds_builder.contact_sheet import (
    COLOURS,
    COLUMNS,
    ROWS,
    WARNING_INK,
    ContactSheet,
    in_ascii,
)


def drawn(sheet: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(sheet) == colour).all(-1).sum())


def test_sheet_shows_each_chosen_record_once_and_each_structure_in_its_colour():
    """Fault: a swapped side that the eye cannot see; empty places; one image over another."""
    sheet = ContactSheet(200)
    blank = np.asarray(sheet.image()).copy()
    for position in range(200):
        record = example(position)
        if position % 2:
            record["mask"] = (record["mask"] > 0).astype(np.uint8)
        sheet.add(position, "train", record)
    image = sheet.image()
    pixels = np.asarray(image)
    assert (pixels != blank).any(-1).mean() > 0.7
    tiles = {pixels[60 + 272 * r : 250 + 272 * r, 30 + 236 * c : 200 + 236 * c].tobytes()
             for r in range(ROWS) for c in range(COLUMNS)}  # fmt: skip
    assert len(tiles) == ROWS * COLUMNS
    for structure in (Structure.LUNGS, Structure.RIGHT_LUNG, Structure.LEFT_LUNG):
        assert drawn(image, COLOURS[structure]) > 1000
    assert drawn(image, COLOURS[Structure.HEART]) == 0
    # Sides are the patient's: the left lung is at the right of its image.
    columns = np.argwhere((pixels[60:] == COLOURS[Structure.LEFT_LUNG]).all(-1))[:, 1]
    assert np.all((columns - 12) % 236 >= 112)


@pytest.mark.parametrize(
    # The first and last of the tile's 224 pixels that the mask holds. Where pixels are averaged,
    # more than half of each is mask: 129 * 224 / 512 = 56.4, 385 * 224 / 512 = 168.4. Where they
    # are copied, pixel n shows pixel n * 100 / 224 rounded down: 26 to 75 are shown by 59 to 170.
    ("side", "lung", "shown", "copied"),
    [(512, slice(129, 385), (56, 167), False), (100, slice(26, 76), (59, 170), True)],
)
def test_outlines_lie_on_the_borders_of_masks(side: int, lung: slice, shown, copied: bool):
    """Fault: outlines beside the lungs; pixels of a large image skipped, of a small one blurred."""
    mask = np.zeros((side, side, 1), np.uint8)
    mask[lung, lung] = Structure.LUNGS
    chequered = (np.indices((side, side, 1)).sum(0) % 2 * 65535).astype(np.uint16)
    sheet = ContactSheet(1)
    sheet.add(0, "train", example(image=chequered, mask=mask))
    tile = np.asarray(sheet.image())[40:264, 12:236]
    outline = (tile == COLOURS[Structure.LUNGS]).all(-1)
    for places in np.nonzero(outline):
        assert (places.min(), places.max()) == shown
    # Along each axis at most 2/7 of 16/7 chequered pixels have no opposite: 1/8, of both 1/64.
    contrast = np.abs(tile[~outline] / 127.5 - 1)
    assert np.all(contrast == 1 if copied else contrast < 0.02)


def test_the_key_names_only_what_shows():
    """Fault: "lungs" beside images in which sides are drawn over all of them."""
    sheet = ContactSheet(2)
    sheet.add(0, "train", example(0))
    assert [*sheet.key().values()] == ["right lung", "left lung"]
    of_unknown_side = example(1)
    of_unknown_side["mask"] = (of_unknown_side["mask"] > 0).astype(np.uint8)
    sheet.add(1, "train", of_unknown_side)
    assert [*sheet.key().values()] == ["lungs or right lung", "left lung"]
    key = np.asarray(sheet.image())[:40].reshape(-1, 3)
    for colour in sheet.key():
        assert (key == colour).all(-1).any()


def test_masks_have_the_colours_of_references():
    """Fault: masks that people drew, in the colours of a network's predictions elsewhere."""
    lungs = {COLOURS[x] for x in (Structure.LUNGS, Structure.RIGHT_LUNG, Structure.LEFT_LUNG)}
    assert lungs == {*REFERENCE_COLOURS}
    assert not {*COLOURS.values()} & {*PREDICTION_COLOURS}


def test_a_mask_without_lung_is_marked():
    """Fault: an image whose outline is missing looks like one whose outline is hard to see."""
    sheet = ContactSheet(2)
    heart_alone = np.full((32, 32, 1), Structure.HEART, np.uint8)
    sheet.add(0, "train", example(0, mask=heart_alone))
    assert drawn(sheet.image(), WARNING_INK) > 0
    sheet = ContactSheet(2)
    sheet.add(0, "train", example(0))
    assert drawn(sheet.image(), WARNING_INK) == 0


@pytest.mark.parametrize(
    ("text", "ascii_text"),
    [
        ("Mu\u0308ller, Köln", "Muller, Koln"),
        ("Łódź", "Lodz"),
        ("Sørlandet \u2013 Ægir", "Sorlandet - AEgir"),
        ("İstanbul T\u0131p", "Istanbul Tip"),
        ("Groß_01", "Gross_01"),
        ("胸部 1", "?? 1"),
        ("a\tb", "a?b"),
    ],
)
def test_captions_are_written_in_letters_that_the_font_has(text: str, ascii_text: str):
    """Fault: boxes in place of umlauts."""
    assert in_ascii(text) == ascii_text
    font = ImageFont.load_default(13)

    def glyph(letter: str) -> bytes:
        mask = font.getmask(letter)
        return bytes(mask)

    # A code point that no font has.
    assert all(glyph(letter) != glyph("\uffff") for letter in in_ascii(text) if letter != " ")


def test_the_sheet_itself_is_written_in_these_letters():
    """Fault: an id or a source drawn as it came."""

    def sheet(letter: str) -> bytes:
        names = {"example_id": f"K{letter}ln 1".encode(), "source": f"K{letter}ln".encode()}
        sheet = ContactSheet(1)
        sheet.add(0, "train", example(0, **names))
        return sheet.image().tobytes()

    assert sheet("ö") == sheet("o")
    assert sheet("ö") != sheet("e")


def test_images_on_the_sheet_are_chosen_from_all():
    """Fault: a sheet that differs from run to run, or shows but the first records."""

    def chosen(last: int) -> bytes:
        sheet = ContactSheet(100)
        for position in range(last):
            sheet.add(position, "train", example(position))
        return sheet.image().tobytes()

    assert chosen(100) == chosen(100)
    assert chosen(100) != chosen(48)


def test_long_ids_and_few_records_fit():
    """Fault: a label that runs over its neighbour, or a set of one image that has no sheet."""
    sheet = ContactSheet(1)
    sheet.add(0, "train", example(0, example_id=b"x" * 500))
    image = sheet.image()
    pixels = np.asarray(image)
    assert np.any(pixels[-40:, 12:236] != 255)
    assert np.all(pixels[40:, 237:] == 255)
