"""Statistics of a set of records, from one look at each: counts, histograms and sums."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from lungseg_jax.imaging.geometry import Box, fit_to_square
from lungseg_jax.imaging.structures import Structure

# Pixels of chest radiographs measure 0.1 to 0.8 mm; the end bins take the rest.
SPACING_EDGES = np.linspace(0, 1, 41)
INTENSITY_EDGES = np.linspace(0, 1, 65)
SHARE_EDGES = np.linspace(0, 0.6, 31)
AGE_EDGES = np.linspace(0, 100, 11)


# Smallest and largest of some values.
Span = tuple[float, float]


class Histogram:
    """Counts of values between fixed edges; what lies beyond goes into the end bins.

    Attributes:
      edges: n + 1 bin edges, ascending.
      counts: n counts; `float` because an image's pixels may count as one together.
      number: number of values, without NaN and infinities.
      total: their sum.
      lowest: the smallest of them.
      highest: the largest of them.
    """

    def __init__(self, edges: Float64[np.ndarray, " e"]) -> None:
        self.edges = edges
        self.counts = np.zeros(len(edges) - 1)
        self.number, self.total = 0, 0.0
        self.lowest, self.highest = np.inf, -np.inf

    def add(self, value: float) -> None:
        """Counts a value; NaN and infinities are left out."""
        if not np.isfinite(value):
            return
        place = np.searchsorted(self.edges, value, side="right") - 1
        self.counts[np.clip(place, 0, len(self.counts) - 1)] += 1
        self.number, self.total = self.number + 1, self.total + value
        self.lowest, self.highest = min(self.lowest, value), max(self.highest, value)

    def add_shares(self, shares: Float64[np.ndarray, " n"], mean: float, span: Span) -> None:
        """Counts many values together as one, by their shares in the bins."""
        self.counts += shares
        self.number, self.total = self.number + 1, self.total + mean
        self.lowest, self.highest = min(self.lowest, span[0]), max(self.highest, span[1])

    @property
    def mean(self) -> float:
        """Mean of the values; NaN if there are none."""
        return self.total / self.number if self.number else np.nan


@dataclasses.dataclass(frozen=True)
class Look:
    """What a record's pixels show.

    Attributes:
      lungs: the pixels of the square that are lung.
      lung_share: share of the exposed field that is lung, without padding.
      intensity: share of the image's pixels in each bin.
      mean: mean intensity.
      span: smallest and largest intensity.
    """

    lungs: Bool[np.ndarray, "s s"]
    lung_share: float
    intensity: Float64[np.ndarray, " n"]
    mean: float
    span: Span

    @classmethod
    def at(cls, record: Mapping[str, Any]) -> "Look":
        """Returns what a record's pixels show."""
        mask = record["mask"][..., 0]
        field = Box.of(record["field"])
        fit = fit_to_square(field.height, field.width, len(mask))
        inside = np.s_[fit.top : fit.top + fit.height, fit.left : fit.left + fit.width]
        lungs = (mask & np.uint8(Structure.LUNGS)) > 0
        image = record["image"][..., 0][inside]
        # Sixteen bits in 64 bins: NumPy's own histogram sorts them, at ten times the cost.
        counts = np.bincount((image >> 10).ravel(), minlength=len(INTENSITY_EDGES) - 1)
        return cls(
            lungs=lungs,
            lung_share=float(lungs[inside].mean()),
            intensity=counts / image.size,
            mean=float(image.mean()) / 65535,
            span=(float(image.min()) / 65535, float(image.max()) / 65535),
        )


class GroupFigures:
    """Statistics of the records of one source or one split.

    Attributes:
      number: number of records.
      heights: number of records of each height of the original image, in pixels.
      widths: the same of its width.
      intensity: intensities of the images' pixels, without padding; each image counts as one.
      lung_share: shares of the exposed fields that are lung.
      age: ages in years.
      sex: number of records of each sex.
      finding: number of records of each finding.
      mask_sum: in how many records each pixel of the square is lung.
    """

    def __init__(self, image_size: int) -> None:
        self.number = 0
        # Exact, because the range of a histogram would have to be known before the first record.
        self.heights: collections.Counter[int] = collections.Counter()
        self.widths: collections.Counter[int] = collections.Counter()
        self.intensity = Histogram(INTENSITY_EDGES)
        self.lung_share = Histogram(SHARE_EDGES)
        self.age = Histogram(AGE_EDGES)
        self.sex: collections.Counter[str] = collections.Counter()
        self.finding: collections.Counter[str] = collections.Counter()
        self.mask_sum: Int64[np.ndarray, "s s"] = np.zeros((image_size, image_size), np.int64)

    def add(self, record: Mapping[str, Any], look: Look) -> None:
        """Counts a record."""
        height, width = (int(side) for side in record["original_size"])
        self.number += 1
        self.heights[height] += 1
        self.widths[width] += 1
        self.mask_sum += look.lungs
        self.lung_share.add(look.lung_share)
        self.intensity.add_shares(look.intensity, look.mean, look.span)
        self.age.add(float(record["age_years"]))
        for name in ("sex", "finding"):
            getattr(self, name)[record[name].decode() or "unknown"] += 1


class Figures:
    """Statistics of a whole set of records; what they keep does not grow with the records' images.

    Attributes:
      by_source: statistics of each source.
      by_split: statistics of each split.
      counts: number of records of each (source, split).
      patients: patients of each split; 100 bytes each is all that is kept of a record.
      spacing: row spacing in mm by what it was measured on; 0 if not known.
      without_lung: ids of the records whose mask has no lung, in order.
    """

    def __init__(self, splits: Iterable[str], image_size: int) -> None:
        self._image_size = image_size
        self.by_source: dict[str, GroupFigures] = {}
        self.by_split = {split: GroupFigures(image_size) for split in splits}
        self.counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self.patients: dict[str, set[str]] = {split: set() for split in self.by_split}
        self.spacing: dict[str, Histogram] = {}
        self.without_lung: list[str] = []

    def add(self, split: str, record: Mapping[str, Any], look: Look) -> None:
        """Counts a record of a split."""
        source = record["source"].decode()
        if source not in self.by_source:
            self.by_source[source] = GroupFigures(self._image_size)
        self.by_source[source].add(record, look)
        self.by_split[split].add(record, look)
        self.counts[source, split] += 1
        self.patients[split].add(record["patient_id"].decode())
        if not look.lungs.any():
            self.without_lung.append(record["example_id"].decode())
        measured_on = record["spacing_source"].decode()
        histogram = self.spacing.setdefault(measured_on, Histogram(SPACING_EDGES))
        histogram.add(float(record["spacing_mm"][0]))

    @property
    def generated(self) -> bool:
        """Whether all images are phantoms, which show no patient."""
        return self.by_source.keys() == {"phantom"}
