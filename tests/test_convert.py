"""From a case's files to its record."""

from typing import Any

import numpy as np
import pytest
from etils import epath

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.geometry import fit_to_square, to_square
from lungseg_jax.imaging.png import read_mask, read_png
from tests.pictures import chest, dicom_bytes, png_bytes
from tfds_builder.convert import convert
from tfds_builder.sources import Case


def write_case(folder, image: bytes, *masks: bytes) -> Case:
    paths = [epath.Path(folder) / f"{name}.png" for name in ("image", "left", "right")]
    for path, content in zip(paths, (image, *masks), strict=False):
        path.write_bytes(content)
    return Case("e", "p", "shenzhen", "normal", paths[0], tuple(paths[1 : 1 + len(masks)]))


@pytest.mark.parametrize("shape", [(61, 83), (84, 51), (20, 31)])
@pytest.mark.parametrize("spacing", [None, (0.15, 0.25)])
def test_the_record_holds_what_the_files_say(tmp_path, shape, spacing):
    """Rows and columns, or the picture's and the square's frame, are easily mixed up."""
    height, width = shape
    picture, soft_mask = chest(height, width, 0)
    attributes: dict[str, Any] = {"WindowCenter": 128, "WindowWidth": 256}
    if spacing:
        attributes["PixelSpacing"] = [str(value) for value in spacing]
    image = dicom_bytes(picture, attributes) if spacing else png_bytes(picture)
    record = convert(write_case(tmp_path, image, png_bytes(soft_mask)), 48)
    fit = fit_to_square(height, width, 48)
    expected = to_square(picture.astype(np.float32) / 255, fit)
    stored = read_png(record["image"], "x").pixels
    # 16 bits in the file; the reader scales by the bits that the brightest pixel needs.
    stored *= (2 ** int(np.rint(expected.max() * 65535)).bit_length() - 1) / 65535
    np.testing.assert_allclose(stored, expected, atol=1 / 65535)
    mask = soft_mask > 127
    np.testing.assert_array_equal(read_mask(record["original_mask"], "x"), mask)
    np.testing.assert_array_equal(
        read_mask(record["mask"], "x"), to_square(mask.astype(np.uint8), fit) > 0.5
    )
    assert record["original_size"].tolist() == list(shape)
    np.testing.assert_allclose(record["spacing_mm"], spacing or (0, 0), rtol=1e-6)
    assert record["spacing_source"] == ("detector" if spacing else "none")
    assert [record[key] for key in ("example_id", "patient_id", "source", "finding")] == [
        "e",
        "p",
        "shenzhen",
        "normal",
    ]


def test_masks_of_two_lungs_are_joined(tmp_path):
    """One of the two alone, or their sum wrapped around, would be half the lungs."""
    picture, mask = chest(40, 60, 0)
    left, right = mask.copy(), mask.copy()
    left[:, :35], right[:, 25:] = 0, 0
    case = write_case(tmp_path, png_bytes(picture), png_bytes(left), png_bytes(right))
    expected = np.maximum(left, right) > 127
    np.testing.assert_array_equal(read_mask(convert(case, 32)["original_mask"], "x"), expected)


def test_a_mask_of_another_size_is_refused(tmp_path):
    """Resized to fit, a mask of another picture would pass unnoticed."""
    picture, mask = chest(40, 60, 0)
    case = write_case(tmp_path, png_bytes(picture), png_bytes(mask.T))
    with pytest.raises(DataError) as caught:
        convert(case, 32)
    for part in ("left.png", "60 x 40", "40 x 60", "image.png"):
        assert part in str(caught.value)


def test_masks_of_two_sizes_are_refused(tmp_path):
    """NumPy's own message names no file."""
    picture, mask = chest(40, 60, 0)
    case = write_case(tmp_path, png_bytes(picture), png_bytes(mask), png_bytes(mask[:-1]))
    with pytest.raises(DataError, match=r"^right.png: mask of 39 x 60 .* left.png has 40 x 60"):
        convert(case, 32)
