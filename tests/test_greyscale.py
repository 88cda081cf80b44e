"""DICOM's grey-scale pipeline against the standard's formulas, worked out apart from it."""

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from pydicom.dataset import Dataset

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.dicom import read_dicom
from lungseg_jax.imaging.greyscale import apply_window
from tests.images import (
    LOSSLESS,
    dicom_bytes,
    encoded_dicom_bytes,
    lut_item,
    without_meta_header,
)

STORED = np.arange(0, 4096, 64, dtype=np.uint16).reshape(8, 8)
SIGNED = STORED.astype(np.int16) - 2048
RAMP = {"WindowCenter": 2048, "WindowWidth": 4096}  # LINEAR: 0 to 4095 onto 0 to 1
NATIVE = [syntax for syntax in LOSSLESS if not syntax.is_encapsulated]


def read(stored: np.ndarray, attributes: dict[str, Any] | None = None, **options: Any):
    return read_dicom(dicom_bytes(stored, attributes, **options), "image.dcm")


def by_the_standard(x: float, center: float, width: float, function: str) -> float:
    """The pseudo code of PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (x - center) / width))
    if function == "LINEAR_EXACT":
        if x <= center - width / 2:
            return 0.0
        return 1.0 if x > center + width / 2 else (x - center) / width + 0.5
    if x <= center - 0.5 - (width - 1) / 2:
        return 0.0
    if x > center - 0.5 + (width - 1) / 2:
        return 1.0
    return (x - (center - 0.5)) / (width - 1) + 0.5


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@given(st.integers(-2000, 5000), st.integers(1, 6000), st.sampled_from([STORED, SIGNED]))
@settings(max_examples=30)
def test_windows_follow_the_standard(function, center, width, values):
    """The functions differ by half a grey value and a width of one, easily mixed up."""
    # The plain form of the sigmoid overflows far from its centre, harmlessly.
    with np.errstate(over="ignore"):
        expected = [by_the_standard(np.float64(x), center, width, function) for x in values.ravel()]
    windowed = apply_window(
        values.ravel().astype(np.float64), float(center), float(width), function
    )
    np.testing.assert_allclose(windowed, expected, atol=1e-5)


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_rescale_comes_before_the_window_and_inversion_last(function):
    """In another order, dark and bright or the whole range would be off."""
    attributes = {
        "RescaleSlope": "0.5",
        "RescaleIntercept": "-300",
        "WindowCenter": "700",
        "WindowWidth": "900",
        "PhotometricInterpretation": "MONOCHROME1",
    }
    if function:
        attributes["VOILUTFunction"] = function
    expected = [
        1 - by_the_standard(0.5 * x - 300, 700, 900, function or "LINEAR") for x in STORED.ravel()
    ]
    np.testing.assert_allclose(read(STORED, attributes).pixels.ravel(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("attributes", "inverted"),
    [
        ({"PhotometricInterpretation": "MONOCHROME1"}, True),
        ({"PresentationLUTShape": "INVERSE"}, True),
        ({"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}, True),
        ({"PresentationLUTShape": "IDENTITY"}, False),
        ({}, False),
    ],
)
def test_inversion_happens_once(attributes, inverted):
    """A DX file states the inversion twice; done twice, lungs come out bright."""
    expected = STORED / 4095
    np.testing.assert_allclose(
        read(STORED, RAMP | attributes).pixels, 1 - expected if inverted else expected, atol=1e-5
    )


@pytest.mark.parametrize("second", [("100", "20"), ("", "")])
def test_the_first_of_several_windows_counts(second: tuple[str, str]):
    """They are alternatives; another one may be made for bone, or left empty."""
    center, width = second
    attributes = {"WindowCenter": ["2048", center], "WindowWidth": ["4096", width]}
    np.testing.assert_allclose(read(STORED, attributes).pixels, STORED / 4095, atol=1e-5)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"WindowCenter": "40"},
        {"WindowCenter": "", "WindowWidth": ""},
        {"WindowCenter": "40", "WindowWidth": "0", "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": "40", "WindowWidth": "-5", "VOILUTFunction": "SIGMOID"},
        {"RescaleSlope": "0.0001", "RescaleIntercept": "7"},
        {"WindowCenter": "50000", "WindowWidth": "100"},
        {"WindowCenter": "-50000", "WindowWidth": "100", "VOILUTFunction": "SIGMOID"},
    ],
)
def test_without_a_usable_window_percentiles_span_the_range(attributes):
    """A window of no width divides by zero; small rescaled values must not come out black.

    A window beside all values shows one grey, which no chest is.
    """
    pixels = read(STORED, attributes).pixels
    low, high = np.percentile(STORED, (0.5, 99.5), method="inverted_cdf")
    np.testing.assert_allclose(pixels, np.clip((STORED - low) / (high - low), 0, 1), atol=1e-5)


def test_a_constant_image_is_finite():
    """Its percentiles coincide."""
    assert not read(np.full((4, 4), 700, np.uint16)).pixels.any()


@pytest.mark.parametrize("transfer_syntax", NATIVE)
@pytest.mark.parametrize("vr", ["OW", "US"])
@pytest.mark.parametrize("rescaled", [False, True])
def test_voi_table(transfer_syntax, vr, rescaled):
    """Its entries span its own bits, positions start at its first value, ends are held."""
    table = (np.arange(1000) ** 2 // 250).astype(np.uint16)[::-1]
    attributes: dict[str, Any] = {"VOILUTSequence": [lut_item(1500, 12, table, vr)]} | RAMP
    if rescaled:
        attributes |= {"RescaleSlope": "1", "RescaleIntercept": "0"}
    expected = table[np.clip(STORED.astype(int) - 1500, 0, 999)] / 4095
    pixels = read(STORED, attributes, transfer_syntax=transfer_syntax).pixels
    np.testing.assert_allclose(pixels, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("stated", "largest"), [(16, 4095), (14, 4095), (13, 8191)], ids=["four", "two", "one"]
)
def test_voi_table_of_fewer_bits_than_it_states(stated, largest):
    """Fault: a black image, which ranks still call a chest; one meant to be dark made bright."""
    table = np.arange(4096, dtype=np.uint16)
    pixels = read(STORED, {"VOILUTSequence": [lut_item(0, stated, table)]}).pixels
    np.testing.assert_allclose(pixels, STORED / largest, atol=1e-5)


@pytest.mark.parametrize("transfer_syntax", NATIVE)
def test_voi_table_of_signed_pixels(transfer_syntax):
    """The descriptor's first value is signed where the pixels are: read so, -2048 is not 63488."""
    table = np.arange(4096, dtype=np.uint16)
    attributes = {"VOILUTSequence": [lut_item(-2048, 12, table)]}
    pixels = read(SIGNED, attributes, transfer_syntax=transfer_syntax).pixels
    np.testing.assert_allclose(pixels, STORED / 4095, atol=1e-5)


def test_voi_table_whose_first_value_lost_its_sign():
    """Fault: a black image where pixels are unsigned and rescaled values are signed."""
    table = np.arange(4096, dtype=np.uint16)
    rescale = {"RescaleSlope": "1", "RescaleIntercept": "-2048"}
    pixels = read(STORED, rescale | {"VOILUTSequence": [lut_item(2**16 - 2048, 12, table)]}).pixels
    np.testing.assert_allclose(pixels, STORED / 4095, atol=1e-5)
    # Values beyond 2**15 are what they are.
    high = STORED + np.uint16(2**16 - 4096)
    attributes = {"BitsStored": 16, "HighBit": 15, "VOILUTSequence": [lut_item(61440, 12, table)]}
    np.testing.assert_allclose(read(high, attributes).pixels, STORED / 4095, atol=1e-5)
    # Nor has a first value lost its sign that some values are below and others above.
    attributes["VOILUTSequence"] = [lut_item(40000, 12, table)]
    astride = STORED + np.uint16(38000)
    expected = np.maximum(STORED.astype(int) - 2000, 0) / 4095
    np.testing.assert_allclose(read(astride, attributes).pixels, expected, atol=1e-5)


@pytest.mark.parametrize("transfer_syntax", NATIVE)
@pytest.mark.parametrize("kept_as", [np.uint8, np.uint16])
def test_table_of_eight_bits(kept_as, transfer_syntax):
    """Entries may be packed or not (PS3.3 C.11.1.1.1); positions beyond 255 must not wrap.

    Fault: neighbours of a packed table, or bytes of another, change places in big-endian files.
    """
    # Neighbours differ, as every second one is looked up.
    table = (np.arange(4096) * 7 % 251).astype(kept_as)
    stored = STORED + (np.arange(64, dtype=np.uint16) % 2).reshape(8, 8)
    attributes = {"VOILUTSequence": [lut_item(0, 8, table)]}
    pixels = read(stored, attributes, transfer_syntax=transfer_syntax).pixels
    np.testing.assert_allclose(pixels, table[stored] / 255, atol=1e-5)


def test_a_table_of_every_word_has_no_entries_by_its_descriptor():
    """Fault: files refused whose table is the longest there is, of which DICOM writes 0 entries."""
    item = lut_item(0, 16, np.zeros(0, np.uint16))
    table = np.arange(2**16, dtype=np.uint16)[::-1]
    item.LUTData = table.astype("<u2").tobytes()
    assert item.LUTDescriptor[0] == 0
    stored = STORED * 16
    attributes = {"BitsStored": 16, "HighBit": 15, "VOILUTSequence": [item]}
    expected = 1 - stored / (2**16 - 1)
    np.testing.assert_allclose(read(stored, attributes).pixels, expected, atol=1e-5)


def test_a_packed_table_of_an_odd_length_ends_in_a_byte_of_no_meaning():
    """Fault: files refused whose table of bytes was filled up to whole words, as DICOM demands."""
    table = (np.arange(251) * 7 % 251).astype(np.uint8)
    item = lut_item(0, 8, table)
    item.LUTData = table.tobytes() + b"\0"
    stored = np.arange(251, dtype=np.uint16)[None]
    expected = table[stored] / 255
    np.testing.assert_allclose(read(stored, {"VOILUTSequence": [item]}).pixels, expected, atol=1e-5)


@pytest.mark.parametrize("bits", [12, 16])
def test_modality_table_comes_before_the_window(bits):
    """Ignored, a film digitiser's densities would show as light."""
    table = np.arange(4095, -1, -1, dtype=np.uint16)
    attributes: dict[str, Any] = {"ModalityLUTSequence": [lut_item(0, bits, table)]} | RAMP
    np.testing.assert_allclose(read(STORED, attributes).pixels, 1 - STORED / 4095, atol=1e-5)


MODALITIES = ("none", "rescale", "table")
WINDOWS = ("none", "LINEAR", "LINEAR_EXACT", "SIGMOID", "table")
PREAMBLES = ("whole", "no preamble", "prefix alone", "no meta header")


def expected_intensities(stored, modality, window, attributes) -> np.ndarray:
    """PS3.3 C.11.1, C.11.2 and PS3.4 N.2, in float64, a value at a time."""
    values = stored.astype(np.float64)
    if modality == "rescale":
        values = values * 0.4 - 100
    if modality == "table":
        first = stored.min()
        values = np.array([[TABLE[x - first] for x in row] for row in stored.astype(int)], float)
    if window == "table":
        positions = np.clip(np.floor(values + 0.5).astype(int) - 30, 0, len(TABLE) - 1)
        result = TABLE[positions] / 4095
    elif window == "none":
        low, high = np.percentile(values, (0.5, 99.5), method="inverted_cdf")
        result = np.clip((values - low) / (high - low), 0, 1)
    else:
        center, width = (float(attributes[f"Window{x}"]) for x in ("Center", "Width"))
        result = np.vectorize(by_the_standard, otypes=[float])(values, center, width, window)
    inverse = attributes["PhotometricInterpretation"] == "MONOCHROME1"
    return 1 - result if inverse else result


# Not monotone, of an odd number of entries, so that shifts and swapped ends show.
TABLE = ((np.arange(201) * 37) % 4096).astype(np.uint16)


@given(
    st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
    st.sampled_from([8, 10, 12, 15, 16]),
    st.booleans(),
    st.sampled_from(MODALITIES),
    st.sampled_from(WINDOWS),
    st.sampled_from(LOSSLESS),
    st.sampled_from(PREAMBLES),
)
@settings(max_examples=400)
def test_every_mixture_of_steps_and_encodings(
    photometric, bits, signed, modality, window, transfer_syntax, preamble
):
    """Fault: steps right alone and wrong together, as a sign lost in compression before a table."""
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    kind = np.dtype(f"{'i' if signed else 'u'}{1 if bits == 8 else 2}")
    stored = np.linspace(low, high, 12 * 16).round().astype(kind).reshape(12, 16)
    if modality == "table":
        stored = (stored.astype(int) % 190 + low).astype(kind)
    attributes: dict[str, Any] = {
        "PhotometricInterpretation": photometric,
        "BitsStored": bits,
        "HighBit": bits - 1,
    }
    if modality == "rescale":
        attributes |= {"RescaleSlope": "0.4", "RescaleIntercept": "-100"}
    if modality == "table":
        attributes["ModalityLUTSequence"] = [lut_item(int(stored.min()), 12, TABLE)]
    if window == "table":
        attributes["VOILUTSequence"] = [lut_item(30, 12, TABLE)]
    elif window != "none":
        attributes |= {"WindowCenter": "75.5", "WindowWidth": "301", "VOILUTFunction": window}
    content = encoded_dicom_bytes(stored, attributes, transfer_syntax)
    if preamble == "no preamble":
        content = content[132:]
    elif preamble == "prefix alone":
        content = content[128:]
    # Without meta header nobody can tell that the rest is deflated or of the other byte order.
    elif preamble == "no meta header" and transfer_syntax not in LOSSLESS[2:4]:
        content = without_meta_header(content)
    with np.errstate(over="ignore"):
        expected = expected_intensities(stored, modality, window, attributes)
    pixels = read_dicom(content, "image.dcm").pixels
    np.testing.assert_allclose(pixels, expected, atol=1e-6)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("value", "limit", "padded"), [(4095, None, 1), (4095, 3968, 2), (0, 63, 1), (64, 0, 2)]
)
def test_padding_is_black_and_does_not_widen_the_range(photometric, value, limit, padded):
    """Fault: a frame of the brightest value that greys the chest, or is white around it."""
    stored = STORED.copy()
    stored[-1, -1] = 4095
    attributes = {"PixelPaddingValue": value, "PhotometricInterpretation": photometric}
    if limit is not None:
        attributes["PixelPaddingRangeLimit"] = limit
    padding = (stored >= min(value, limit or 0)) & (stored <= max(value, limit or 0))
    padding = padding if limit is not None else stored == value
    assert padding.sum() == padded
    low, high = np.percentile(stored[~padding], (0.5, 99.5), method="inverted_cdf")
    expected = np.clip((stored - low) / (high - low), 0, 1)
    expected = 1 - expected if photometric == "MONOCHROME1" else expected
    pixels = read(stored, attributes).pixels
    np.testing.assert_allclose(pixels, np.where(padding, 0, expected), atol=1e-6)


def test_an_image_of_padding_alone_is_black():
    """Fault: percentiles of no pixel at all."""
    assert not read(np.full((4, 4), 7, np.uint16), {"PixelPaddingValue": 7}).pixels.any()


def test_padding_that_covers_every_value_is_ignored():
    """Fault: a black image for a header that states the whole range of the type."""
    attributes = {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 65535}
    np.testing.assert_array_equal(read(STORED, attributes).pixels, read(STORED).pixels)


def test_signed_padding():
    """Fault: -2000, the usual padding of signed images, compared as 63536."""
    pixels = read(SIGNED, {"PixelPaddingValue": -2048, "PhotometricInterpretation": "MONOCHROME1"})
    assert pixels.pixels[0, 0] == 0
    assert pixels.pixels[0, 1] == 1


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("first", [-2048, -2000])
def test_signed_padding_stated_without_sign(first, bits):
    """Fault: the frame around a signed chest white and in its range, as its header writes US."""
    attributes = {"BitsStored": bits, "HighBit": bits - 1} | {
        "PhotometricInterpretation": "MONOCHROME1"
    }
    stored = np.maximum(SIGNED, first)
    expected = read(stored, attributes | {"PixelPaddingValue": first}).pixels
    assert expected[0, 0] == 0
    for modulus in (2**16, 2**bits):
        # The writer takes the type from the sign of the pixels: the word itself is changed.
        content = dicom_bytes(stored, attributes | {"PixelPaddingValue": first})
        start = content.index(b"\x28\0\x20\x01SS\2\0")
        word = (first % modulus).to_bytes(2, "little")
        content = content[: start + 4] + b"US\2\0" + word + content[start + 10 :]
        pixels = read_dicom(content, "image.dcm").pixels
        np.testing.assert_array_equal(pixels, expected)


def test_padding_out_of_range_marks_no_pixel():
    """Fault: -32768, a filler, taken for the 0 that its lowest 12 bits spell."""
    for stored, value in ((SIGNED, -32768), (STORED, 63536)):
        filler = read(stored, {"PixelPaddingValue": value}).pixels
        np.testing.assert_array_equal(filler, read(stored).pixels)


def test_images_for_processing_have_no_window_for_the_eye():
    """Fault: a raw image windowed by values meant for its processed sibling is all black."""
    attributes = {"PresentationIntentType": "FOR PROCESSING"} | {
        "WindowCenter": 60000,
        "WindowWidth": 100,
    }
    np.testing.assert_array_equal(read(STORED, attributes).pixels, read(STORED).pixels)


@pytest.mark.parametrize("slope", ["1", "-1", "0.25", "-3"])
def test_percentiles_do_not_depend_on_the_rescale(slope):
    """Fault: values that fall as stored ones rise taken for sorted."""
    attributes = {"RescaleSlope": slope, "RescaleIntercept": "17"}
    upright = read(STORED, attributes).pixels
    expected = read(STORED).pixels if float(slope) > 0 else read(STORED[::-1, ::-1]).pixels
    np.testing.assert_allclose(upright, expected, atol=1 / 64)


@pytest.mark.parametrize(
    "attributes",
    [
        {"RescaleSlope": "1e308", "RescaleIntercept": "0"},
        {"VOILUTSequence": [lut_item(0, 12, np.zeros(0, np.uint16))]},
    ],
)
def test_steps_that_cannot_be_are_data_errors(attributes):
    """Fault: an image of NaN, or NumPy's words about a buffer."""
    with pytest.raises(DataError, match=r"^image\.dcm: greyscale attributes are inconsistent"):
        read(STORED, attributes)


SHORT = lut_item(0, 12, np.arange(4096, dtype=np.uint16))
SHORT.LUTData = SHORT.LUTData[:-2]
EMPTY = Dataset()
# As many bytes as there are entries.
HALF = lut_item(0, 16, np.arange(4096, dtype=np.uint16))
HALF.LUTData = HALF.LUTData[:4096]
BROKEN_TABLES = [SHORT, EMPTY, HALF]


@pytest.mark.parametrize("table", BROKEN_TABLES)
def test_a_broken_voi_table_gives_way_to_the_window(table):
    """Fault: words of a table with one entry too few read as twice as many bytes, which is noise.

    Or an image lost that its window shows well.
    """
    radiograph = read(STORED, RAMP | {"VOILUTSequence": [table]})
    np.testing.assert_allclose(radiograph.pixels, STORED / 4095, atol=1e-6)
    assert radiograph.notes == ("its VOI LUT is broken: left out",)
    with pytest.raises(DataError, match="greyscale attributes are inconsistent"):
        read(STORED, {"VOILUTSequence": [table]})


def test_a_short_modality_table_is_refused():
    """Fault: noise, with nothing beside the table to read the image by."""
    with pytest.raises(DataError, match="greyscale attributes are inconsistent"):
        read(STORED, RAMP | {"ModalityLUTSequence": [SHORT]})


def test_a_slope_of_zero_is_no_rescale():
    """Fault: an image of one grey."""
    for slope in ("0", ["0", "1"]):
        found = read(STORED, RAMP | {"RescaleSlope": slope, "RescaleIntercept": "5"})
        np.testing.assert_array_equal(found.pixels, read(STORED, RAMP).pixels)
