"""From stored values to intensities: the greyscale pipeline of DICOM PS3.4 N.2.

Modality LUT or rescale, then VOI LUT or window, then the sense of the Presentation LUT. Each is a
function of the stored value alone, so it is computed once for each value that occurs.
"""

import dataclasses
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, Integer
from pydicom.dataset import Dataset

from lungseg_jax.imaging.bit_depth import largest_value
from lungseg_jax.imaging.header import read_numbers, read_word

# Share of pixels left out at each end where a file states no window.
SHARES_WITHOUT_WINDOW = (0.005, 0.995)

# NumPy widens indices to eight bytes a pixel when it looks them up, and OpenCV's counts are floats,
# exact up to 2^24: some rows at a time.
_STRIP_ROWS = 256


@dataclasses.dataclass(frozen=True)
class GreyScale:
    """The steps that a header asks for.

    Attributes:
      modality: what turns stored values into the detector's.
      window: what maps them to [0, 1]; a robust range where no other step is stated, or where the
        image is meant for processing, not for viewing. It also replaces a stated window that shows
        only one grey; a stated window replaces a broken table.
      inverted: whether low values are bright.
    """

    modality: Literal["table", "rescale", "none"]
    window: Literal["table", "LINEAR", "LINEAR_EXACT", "SIGMOID", "percentiles"]
    inverted: bool


def read_greyscale(dataset: Dataset) -> GreyScale:
    """Returns the steps that a header asks for."""
    if dataset.get("ModalityLUTSequence"):
        modality = "table"
    else:
        slope, intercept = (read_numbers(dataset, f"Rescale{x}") for x in ("Slope", "Intercept"))
        # A slope of 0 would leave one grey.
        modality = "rescale" if intercept and slope and slope[0] else "none"
    # MONOCHROME1 and INVERSE mean the same; files often state both.
    inverted = (
        read_word(dataset, "PhotometricInterpretation") == "MONOCHROME1"
        or read_word(dataset, "PresentationLUTShape") == "INVERSE"
    )
    return GreyScale(modality, _window_function(dataset), inverted)


def to_intensities(
    stored: Integer[np.ndarray, "h w"], dataset: Dataset, greyscale: GreyScale
) -> Float32[np.ndarray, "h w"]:
    """Returns intensities in [0, 1] with bone bright; padding is black.

    Args:
      stored: stored values of at most 16 bits.
      dataset: the header with tables, window and padding.
      greyscale: the steps.

    Raises:
      ValueError: a table is shorter than it says, or values are not finite.
    """
    levels = np.arange(int(stored.min()), int(stored.max()) + 1)
    # Differences would wrap around in signed words, but not in the same bits read as unsigned.
    unsigned = np.dtype(f"u{stored.itemsize}")
    position = stored.view(unsigned) - stored.min().astype(unsigned)
    strips = [slice(row, row + _STRIP_ROWS) for row in range(0, len(position), _STRIP_ROWS)]
    padding = _is_padding(levels, dataset)
    counts = np.zeros(len(levels), np.int64)
    for strip in strips:
        # Several times as fast as NumPy's.
        histogram = cv2.calcHist([position[strip]], [0], None, [len(levels)], [0, len(levels)])
        counts += histogram.ravel().astype(np.int64)
    counts *= ~padding
    intensities = _window(
        _to_modality_values(levels, dataset, greyscale), counts, dataset, greyscale
    )
    if not np.isfinite(intensities).all():
        raise ValueError
    if greyscale.inverted:
        intensities = 1 - intensities
    intensities[padding] = 0
    table = intensities.astype(np.float32)
    pixels = np.empty(stored.shape, np.float32)
    for strip in strips:
        # Every position is in the table; "clip" saves the check.
        np.take(table, position[strip], out=pixels[strip], mode="clip")
    return pixels


def _is_padding(levels: Integer[np.ndarray, " n"], dataset: Dataset) -> Bool[np.ndarray, " n"]:
    """Returns which stored values mark pixels outside the image (DICOM PS3.3 C.7.5.1.1.2)."""
    value = read_numbers(dataset, "PixelPaddingValue")
    if not value:
        return np.zeros(len(levels), np.bool_)
    limit = read_numbers(dataset, "PixelPaddingRangeLimit") or value
    low, high = sorted(_with_sign(x[0], dataset) for x in (value, limit))
    padding = (levels >= low) & (levels <= high)
    # Some headers state the whole range of the type, which would leave no image.
    return padding & (low == high or not padding.all())


def _with_sign(padding: float, dataset: Dataset) -> float:
    """Returns the stored value that a padding attribute means.

    Files with signed pixels may state it as an unsigned word: -2000 as 63536, or as 2096 where
    words keep only the 12 bits stored. Any other value outside their range marks no pixel.
    """
    if read_numbers(dataset, "PixelRepresentation") == (1,):
        for values in (2**16, 2 ** int(dataset.BitsStored)):
            if values / 2 <= padding < values:
                return padding - values
    return padding


def _to_modality_values(
    levels: Integer[np.ndarray, " n"], dataset: Dataset, greyscale: GreyScale
) -> Float64[np.ndarray, " n"]:
    """Returns stored values after the Modality LUT or the rescale, whichever the file has."""
    values = levels.astype(np.float64)
    if greyscale.modality == "table":
        lut = dataset.ModalityLUTSequence[0]
        return _look_up(values, lut, _table(lut))
    if greyscale.modality == "rescale":
        slope, intercept = (read_numbers(dataset, f"Rescale{x}") for x in ("Slope", "Intercept"))
        return values * slope[0] + intercept[0]
    return values


def _window_function(
    dataset: Dataset,
) -> Literal["table", "LINEAR", "LINEAR_EXACT", "SIGMOID", "percentiles"]:
    if read_word(dataset, "PresentationIntentType") == "FOR PROCESSING":
        return "percentiles"
    width = read_numbers(dataset, "WindowWidth")
    has_window = bool(read_numbers(dataset, "WindowCenter") and width and width[0] > 0)
    if dataset.get("VOILUTSequence") and not (has_window and _has_broken_table(dataset)):
        return "table"
    if not has_window:
        return "percentiles"
    function = read_word(dataset, "VOILUTFunction")
    return function if function in ("LINEAR_EXACT", "SIGMOID") else "LINEAR"


def _has_broken_table(dataset: Dataset) -> bool:
    """Whether the first VOI LUT lacks its descriptor or some or all of its entries."""
    try:
        _table(dataset.VOILUTSequence[0])
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return True
    return False


def _window(
    values: Float64[np.ndarray, " n"],
    counts: Integer[np.ndarray, " n"],
    dataset: Dataset,
    greyscale: GreyScale,
) -> Float64[np.ndarray, " n"]:
    """Returns values mapped to [0, 1]; `counts` says how many pixels have each."""
    if greyscale.window == "table":
        lut = dataset.VOILUTSequence[0]
        table = _table(lut)
        largest, used = 2 ** int(lut.LUTDescriptor[2]) - 1, largest_value(int(table.max()))
        # Some state 16 bits for a 12-bit table: all would be black. One bit more may be intended.
        largest = used if used < largest // 2 else largest
        return np.clip(_look_up(values, lut, table) / largest, 0, 1)
    if greyscale.window != "percentiles":
        # Several windows are alternatives, the first being the default.
        center, width = (read_numbers(dataset, f"Window{part}")[0] for part in ("Center", "Width"))
        intensities = apply_window(values, center, width, greyscale.window)
        shown = intensities[counts > 0]
        # A window that misses all values, as where pixels were rescaled later, shows nothing.
        if not shown.size or shown.min() < shown.max():
            return intensities
    low, high = _robust_range(values, counts)
    return np.clip((values - low) / ((high - low) or 1.0), 0, 1)


def apply_window(
    values: Float64[np.ndarray, " n"],
    center: float,
    width: float,
    function: Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"],
) -> Float64[np.ndarray, " n"]:
    """Returns values in [0, 1] after a VOI window (DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3).

    The output range of pydicom's `apply_windowing` depends on bits stored and rescaling; here it is
    [0, 1] by definition.
    """
    x = values - center
    if function == "SIGMOID":
        # 1 / (1 + exp(-4 x / width)) in the form that cannot overflow.
        return 0.5 + 0.5 * np.tanh(2 * x / width)
    if function == "LINEAR_EXACT":
        return np.clip(x / width + 0.5, 0, 1)
    return np.clip((x + 0.5) / max(width - 1, 1e-6) + 0.5, 0, 1)


def _robust_range(
    values: Float64[np.ndarray, " n"], counts: Integer[np.ndarray, " n"]
) -> tuple[float, float]:
    """Returns the values below and above which a small share of the pixels lies."""
    order = np.argsort(values)
    cumulative = np.cumsum(counts[order])
    ranks = np.asarray(SHARES_WITHOUT_WINDOW) * cumulative[-1]
    # The smallest value not exceeded by at least that share of pixels; if all is padding, any.
    low, high = values[order][
        np.searchsorted(cumulative, np.maximum(ranks, 1)).clip(max=len(order) - 1)
    ]
    return float(low), float(high)


def _look_up(
    values: Float64[np.ndarray, " n"], lut: Dataset, table: Integer[np.ndarray, " m"]
) -> Float64[np.ndarray, " n"]:
    """Returns values mapped by an item of a LUT sequence (DICOM PS3.3 C.11.1.1) and its table.

    pydicom's own functions fail on 12-bit tables and on packed 8-bit ones, wrap around on 8-bit
    tables longer than 256, and expect integers, which rescaling does not leave.
    """
    first = int(lut.LUTDescriptor[1])
    # Some files write it unsigned because the pixels are, though rescaled values are signed: then
    # no value would reach the table.
    first -= 2**16 * (first >= 2**15 and values.max() < first)
    place = np.clip(np.rint(values) - first, 0, len(table) - 1).astype(np.int64)
    return table.astype(np.float64)[place]


def _table(lut: Dataset) -> Integer[np.ndarray, " m"]:
    """Returns the entries of an item of a LUT sequence.

    Raises:
      ValueError: there are fewer than it states.
    """
    # Written as SS in files with signed pixels, though the count has no sign; 0 stands for 65536.
    entries = int(lut.LUTDescriptor[0]) % 2**16 or 2**16
    data = lut.LUTData
    content = data if isinstance(data, bytes) else np.asarray(data, "<u2").tobytes()
    _, little_endian = lut.original_encoding
    if lut["LUTData"].VR == "OW" and little_endian is False:
        # The first of two packed entries is the lower byte of their word, which comes last.
        content = np.frombuffer(content, ">u2").astype("<u2").tobytes()
    # Entries of up to 8 bits may be packed, with an extra byte to make their number even.
    packed = int(lut.LUTDescriptor[2]) <= 8 and len(content) <= entries + 1
    return np.frombuffer(content, "u1" if packed else "<u2", entries)
