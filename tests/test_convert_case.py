"""From a case's files to its record."""

import dataclasses
import io
import math
from typing import Any

import numpy as np
import pytest
from etils import epath
from PIL import Image

from lungseg_jax.imaging.geometry import fit_to_square, to_square
from lungseg_jax.imaging.mask_file import read_mask
from lungseg_jax.imaging.network_input import read_network_input
from lungseg_jax.imaging.png import UNFILTERED, encode_png, read_png
from lungseg_jax.imaging.radiograph import ReadOptions
from lungseg_jax.imaging.structures import Structure
from tests.images import chest, dicom_bytes, png_bytes
from tfds_builder.convert_case import ConvertSettings, convert_case, structures_to_square
from tfds_builder.sources import Case, Clinical, MaskFile


def write_case(folder, image: bytes, *masks: bytes) -> Case:
    paths = [epath.Path(folder) / f"{name}.png" for name in ("image", "left", "right")]
    for path, content in zip(paths, (image, *masks), strict=False):
        path.write_bytes(content)
    sides = (Structure.LEFT_LUNG, Structure.RIGHT_LUNG) if len(masks) > 1 else (Structure.LUNGS,)
    files = tuple(map(MaskFile, paths[1 : 1 + len(masks)], sides))
    return Case("e", "p", "shenzhen", paths[0], files, Clinical(finding="normal"))


def convert_taken(case: Case, image_size: int) -> dict[str, Any]:
    # Images of a few dozen pixels look like nothing.
    settings = ConvertSettings(image_size, b"key", ReadOptions(frontal_only=False))
    outcome, record = convert_case(case, settings)
    assert outcome.status == "taken", outcome
    assert record is not None
    return record


@pytest.mark.parametrize("as_dicom", [False, True])
@pytest.mark.parametrize("bars", [0, 90])
def test_networks_see_files_as_they_were_trained_on_them(tmp_path, as_dicom: bool, bars: int):
    """Fault: a shift, a scale, a part or a window in training alone, or in prediction alone."""
    pixels, mask = (np.pad(x, bars) for x in chest(130, 113, 0))
    image = dicom_bytes(pixels, {"PatientOrientation": ["P", "F"]}) if as_dicom else None
    case = write_case(tmp_path, image or png_bytes(pixels), png_bytes(mask))
    _, square = read_network_input(case.image, ReadOptions(frontal_only=False), 48)
    record = convert_taken(case, 48)
    stored = np.asarray(Image.open(io.BytesIO(record["image"])))
    np.testing.assert_array_equal(square[..., 0], stored)
    assert np.ptp(stored) > 10000


@pytest.mark.parametrize("on_bar", [0, 4, 8, 400])
def test_lungs_that_networks_do_not_see_are_noted(tmp_path, on_bar: int):
    """Fault: a mask on bars that are cut off, which lowers all figures and nothing tells."""
    pixels, mask = (np.pad(x, 90) for x in chest(130, 113, 0))
    mask[10:30, 10:30].flat[:on_bar] = 255
    record = convert_taken(write_case(tmp_path, png_bytes(pixels), png_bytes(mask)), 48)
    share = on_bar / np.count_nonzero(mask > 127)
    # An outline's width is not worth a word.
    noted = f"of the lungs' mask {share:.1%} lie on bars that are cut off"
    expected = [noted] if share > 0.001 else []
    assert [note for note in record["notes"].split("; ") if "lungs' mask" in note] == expected


@pytest.mark.parametrize("marked", [(), (0,), (1,), (0, 1)])
def test_one_lung_of_two_is_lung(tmp_path, marked: tuple[int, ...]):
    """Fault: records of collapsed lungs refused, or of masks that were exported empty built."""
    pixels, mask = chest(40, 36, 0)
    halves = np.zeros((2, 40, 36), np.uint8)
    halves[0, :, 18:], halves[1, :, :18] = mask[:, 18:], mask[:, :18]
    masks = [half * (number in marked) for number, half in enumerate(halves)]
    case = write_case(tmp_path, png_bytes(pixels), *map(png_bytes, masks))
    outcome, _ = convert_case(case, ConvertSettings(48, b"key", ReadOptions(frontal_only=False)))
    assert outcome.status == "taken"
    assert outcome.has_lung == bool(marked)


def test_a_heart_is_no_lung(tmp_path):
    """Fault: records built whose lungs were exported empty, because other structures are marked."""
    pixels, mask = chest(40, 36, 0)
    case = write_case(tmp_path, png_bytes(pixels), png_bytes(mask))
    (file,) = case.masks
    heart = dataclasses.replace(file, structure=Structure.HEART)
    outcome, _ = convert_case(
        dataclasses.replace(case, masks=(heart,)),
        ConvertSettings(48, b"key", ReadOptions(frontal_only=False)),
    )
    assert outcome.status == "taken"
    assert not outcome.has_lung


def test_what_is_read_often_is_quick_to_decode(tmp_path):
    """Fault: streaming waits for decoders, which no test of pixels notices."""
    pixels, mask = chest(130, 113, 0)
    record = convert_taken(write_case(tmp_path, png_bytes(pixels), png_bytes(mask)), 48)
    stored = np.asarray(Image.open(io.BytesIO(record["image"])))
    assert all(row.astype(">u2").tobytes() in record["image"] for row in stored)
    for name in ("mask", "original_mask"):
        assert record[name] == encode_png(stored_mask(record[name]), UNFILTERED)


def stored_mask(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.mark.parametrize("shape", [(61, 83), (84, 51), (20, 31)])
@pytest.mark.parametrize("spacing", [None, (0.15, 0.25)])
def test_the_record_holds_what_the_files_say(tmp_path, shape, spacing):
    """Rows and columns, or the image's and the square's frame, are easily mixed up."""
    height, width = shape
    pixels, soft_mask = chest(height, width, 0)
    attributes: dict[str, Any] = {"WindowCenter": 128, "WindowWidth": 256}
    if spacing:
        attributes["PixelSpacing"] = [str(value) for value in spacing]
    image = dicom_bytes(pixels, attributes) if spacing else png_bytes(pixels)
    record = convert_taken(write_case(tmp_path, image, png_bytes(soft_mask)), 48)
    fit = fit_to_square(height, width, 48)
    expected = to_square(pixels.astype(np.float32) / 255, fit)
    stored = read_png(record["image"], "x").pixels
    # 16 bits in the file; the reader scales by the bits that the brightest pixel needs.
    stored *= (2 ** int(np.rint(expected.max() * 65535)).bit_length() - 1) / 65535
    np.testing.assert_allclose(stored, expected, atol=1 / 65535)
    mask = soft_mask > 127
    np.testing.assert_array_equal(read_mask(record["original_mask"], "x"), mask)
    np.testing.assert_array_equal(
        read_mask(record["mask"], "x"), to_square(mask.astype(np.uint8), fit) > 0.5
    )
    assert record["original_size"] == list(shape)
    np.testing.assert_allclose(record["spacing_mm"], spacing or (0, 0), rtol=1e-6)
    assert record["spacing_source"] == ("detector" if spacing else "none")
    assert [record[key] for key in ("example_id", "patient_id", "source", "finding")] == [
        "e",
        "p",
        "shenzhen",
        "normal",
    ]


@pytest.mark.parametrize(("max_pixels", "status"), [(1440, "bad"), (5760, "taken")])
def test_the_largest_image_is_the_largest_mask_too(tmp_path, max_pixels, status):
    """Fault: films beyond the default size are read on request, and their masks refused."""
    pixels, mask = chest(80, 72, 0)
    case = write_case(tmp_path, png_bytes(pixels[::2, ::2]), png_bytes(mask))
    # A mask larger than its image is refused by either check: the first one tells.
    settings = ConvertSettings(32, b"key", ReadOptions(max_pixels, frontal_only=False))
    if status == "taken":
        case.image.write_bytes(png_bytes(pixels))
    outcome, _ = convert_case(case, settings)
    assert outcome.status == status
    assert ("80 x 72 pixels, more than 0.00144 million" in outcome.fault) == (status == "bad")


def test_each_lung_keeps_its_bit(tmp_path):
    """Fault: one lung alone, or a sum wrapped around, taken for the lungs; or bits interpolated."""
    pixels, mask = chest(40, 60, 0)
    left, right = mask.copy(), mask.copy()
    left[:, :35], right[:, 25:] = 0, 0
    case = write_case(tmp_path, png_bytes(pixels), png_bytes(left), png_bytes(right))
    record = convert_taken(case, 32)
    original, square = (stored_mask(record[key]) for key in ("original_mask", "mask"))
    fit = fit_to_square(40, 60, 32)
    for bit, drawn in (
        (Structure.LUNGS, np.maximum(left, right)),
        (Structure.LEFT_LUNG, left),
        (Structure.RIGHT_LUNG, right),
    ):
        np.testing.assert_array_equal(original & np.uint8(bit) > 0, drawn > 127)
        expected = to_square((drawn > 127).astype(np.uint8), fit) > 0.5
        np.testing.assert_array_equal(square & np.uint8(bit) > 0, expected)
        assert expected.any()


def test_an_outline_on_half_pixels_stays_where_it_is():
    """Fault: pixels covered to exactly half all taken or all left: an outline moved by half of one.

    Shrunk by two, a rectangle from odd to odd rows and columns covers 20 x 22 pixels, half of those
    along its sides, and a quarter of four corners.
    """
    mask = np.zeros((64, 64), np.uint8)
    mask[3:45, 5:51] = Structure.LUNGS
    square = structures_to_square(mask, fit_to_square(64, 64, 32))
    assert square[2:22, 3:25].all()
    sides = square[1, 3:25], square[22, 3:25], square[2:22, 2], square[2:22, 25]
    assert [np.count_nonzero(side) for side in sides] == [11, 11, 10, 10]
    assert np.count_nonzero(square) == 20 * 22 + 42


def test_the_documented_spacing_is_used_where_the_file_states_none(tmp_path):
    """Fault: Montgomery without figures in mm, or its spacing put over that of a header."""
    pixels, mask = (array[::512, ::512] for array in chest(2048, 2048, 0))
    pixels, mask = (np.kron(array, np.ones((512, 512), np.uint8)) for array in (pixels, mask))
    for image, expected in (
        (png_bytes(pixels), ([0.1, 0.2], "detector")),
        (dicom_bytes(pixels, {"PixelSpacing": ["0.3", "0.4"]}), ([0.3, 0.4], "detector")),
    ):
        case = write_case(tmp_path, image, png_bytes(mask))
        case = dataclasses.replace(case, source="jsrt", spacing_mm=(0.1, 0.2))
        record = convert_taken(case, 32)
        np.testing.assert_allclose(record["spacing_mm"], expected[0], rtol=1e-6)
        assert record["spacing_source"] == expected[1]


def test_another_key_is_another_setting_and_stays_secret():
    """Fault: identifiers hashed with an old key used again, or the key itself in a file's text."""
    keys = (b"first secret", b"other secret")
    first, other = (ConvertSettings(32, key, ReadOptions()).describe() for key in keys)
    assert first != other
    for text in (first, other):
        assert "secret" not in text
        assert not any(key.hex() in text for key in keys)


@pytest.mark.parametrize("wanted", [False, True])
def test_sex_and_age_of_a_header_are_kept_only_if_asked(tmp_path, wanted: bool):
    """Fault: what a header says about a patient in records; or a list overruled by a header."""
    pixels, mask = chest(64, 60, 0)
    header = {"PatientSex": "F", "PatientAge": "045Y"}
    listed = Clinical(sex="M")
    settings = ConvertSettings(32, b"key", ReadOptions(frontal_only=False, sex_and_age=wanted))
    case = write_case(tmp_path, dicom_bytes(pixels, header), png_bytes(mask))
    for clinical, sex in ((Clinical(), "F" if wanted else ""), (listed, "M")):
        _, record = convert_case(dataclasses.replace(case, clinical=clinical), settings)
        assert record is not None
        assert record["sex"] == sex
        np.testing.assert_equal(record["age_years"], 45 if wanted else math.nan)
