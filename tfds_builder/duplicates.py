"""Duplicate images: the same pixels, or the same chest under another number.

Images are compared by their lungs. The box around the mask is resized to a small square, so that
another crop, position, size or bit depth makes no difference; what is left after a high-pass filter
(ribs, vessels, outlines) is compared by correlation, so that brightness makes little difference.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import Float16, Float32, UInt8, UInt16

from lungseg_jax.imaging.structures import Structure

# Of 158203 pairs of Montgomery's and Shenzhen's images 5 exceed it, to the eye the same chest
# twice; other pairs reach at most 0.75, those of 60 phantoms 0.77. A copy whose mask is 2 of 256
# pixels wider all around has 0.73 to 0.9; a patient who stands differently may have less.
ALIKE_CORRELATION = 0.8

FINGERPRINT_SIDE = 32

# In pixels of a fingerprint: ribs stay; the shape of heart and lungs, which all share, is removed.
HIGH_PASS_SIGMA = 1.0

# Rows and columns at each end that hold this share of the mask are cut off, because specks and thin
# corners of a mask must not move the box.
CUT_SHARE = 0.02

# Images compared at once: their correlations take 64 MiB.
BLOCK = 4096


@dataclasses.dataclass(frozen=True)
class Example:
    """Which image of the records.

    Attributes:
      example_id: its id.
      patient_id: its patient's id.
      split: the split that it is in.
    """

    example_id: str
    patient_id: str
    split: str


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two images that show the same.

    Attributes:
      kind: `same pixels`, or `alike` from `ALIKE_CORRELATION` on.
      correlation: correlation of their fingerprints; 1 for the same pixels.
      first: the image that comes first in the records.
      second: the other image.
    """

    kind: Literal["same pixels", "alike"]
    correlation: float
    first: Example
    second: Example

    @property
    def across_splits(self) -> bool:
        """Whether the two are in different splits, so that one gives the other away."""
        return self.first.split != self.second.split


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """What is remembered of an image, in 2 kB.

    Attributes:
      pixels: hash of the pixels.
      detail: detail in the box around the lungs; see `detail_of_lungs`.
    """

    pixels: bytes
    detail: Float16[np.ndarray, " n"]

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Fingerprint":
        """Returns the fingerprint of a record's image."""
        image = record["image"][..., 0]
        detail = detail_of_lungs(image, record["mask"][..., 0])
        return cls(hashlib.sha256(image.tobytes()).digest(), detail.astype(np.float16))


class Fingerprints:
    """Fingerprints of all images, to compare every image with every other."""

    def __init__(self) -> None:
        self._examples: list[Example] = []
        self._fingerprints: list[Fingerprint] = []

    def __len__(self) -> int:
        return len(self._examples)

    def add(self, split: str, record: Mapping[str, Any], seen: Fingerprint) -> None:
        """Remembers the image of a record by its fingerprint."""
        example_id, patient_id = record["example_id"].decode(), record["patient_id"].decode()
        self._examples.append(Example(example_id, patient_id, split))
        self._fingerprints.append(seen)

    def pairs(self) -> list[Pair]:
        """Returns the pairs that show the same, those across splits first, the most alike first.

        Of several images with the same pixels, each is paired with the first. Images of one patient
        in one split are expected to be alike and are paired only if their pixels are the same.
        """
        pairs = [*self._same_pixels(), *self._alike()]
        return sorted(pairs, key=lambda pair: (not pair.across_splits, -pair.correlation))

    def _same_pixels(self) -> Iterator[Pair]:
        first_with: dict[bytes, int] = {}
        for position, seen in enumerate(self._fingerprints):
            first = first_with.setdefault(seen.pixels, position)
            if first != position:
                yield Pair("same pixels", 1.0, self._examples[first], self._examples[position])

    def _alike(self) -> Iterator[Pair]:
        for top in range(0, len(self), BLOCK):
            rows = self._block(top)
            for left in range(top, len(self), BLOCK):
                correlations = rows @ self._block(left).T
                for row, column in np.argwhere(correlations >= ALIKE_CORRELATION):
                    i, j = top + row, left + column
                    first, second = self._examples[i], self._examples[j]
                    follow_up = (first.patient_id, first.split) == (
                        second.patient_id,
                        second.split,
                    )
                    same = self._fingerprints[i].pixels == self._fingerprints[j].pixels
                    if i < j and not follow_up and not same:
                        correlation = min(1.0, float(correlations[row, column]))
                        yield Pair("alike", correlation, first, second)

    def _block(self, start: int) -> Float32[np.ndarray, "b n"]:
        block = self._fingerprints[start : start + BLOCK]
        return np.stack([seen.detail for seen in block]).astype(np.float32)


def detail_of_lungs(
    image: UInt16[np.ndarray, "s s"], mask: UInt8[np.ndarray, "s s"]
) -> Float32[np.ndarray, " n"]:
    """Returns a vector of length 1; the inner product of two of them is their correlation.

    It is 0 for an empty image, which is then like no other.
    """
    rows, columns = _lung_box((mask & np.uint8(Structure.LUNGS)) > 0)
    side = (FINGERPRINT_SIDE, FINGERPRINT_SIDE)
    # By area, so that every pixel counts, however large the image.
    small = cv2.resize(image[rows, columns].astype(np.float32), side, interpolation=cv2.INTER_AREA)
    detail = small - cv2.GaussianBlur(small, (0, 0), HIGH_PASS_SIGMA)
    centred = (detail - detail.mean()).ravel()
    length = np.linalg.norm(centred)
    # Rounding errors of a constant image are not detail.
    return centred / length if length > 1 else np.zeros_like(centred)


def _lung_box(lungs: np.ndarray) -> tuple[slice, slice]:
    """Returns the rows and columns that hold the lungs; all of them if there are no lungs."""
    if not lungs.any():
        return slice(None), slice(None)
    box = []
    for axis in (1, 0):
        share = np.cumsum(lungs.sum(axis)) / lungs.sum()
        first, last = np.searchsorted(share, (CUT_SHARE, 1 - CUT_SHARE))
        box.append(slice(int(first), int(last) + 1))
    return box[0], box[1]
