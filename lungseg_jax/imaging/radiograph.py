"""A radiograph in memory, whatever file it came from."""

import dataclasses
import functools
from typing import Literal

import numpy as np
from jaxtyping import Float32, Shaped

from lungseg_jax.config import DataConfig
from lungseg_jax.errors import DataError
from lungseg_jax.imaging.borders import exposed_field
from lungseg_jax.imaging.geometry import Box

SpacingSource = Literal["calibrated", "magnification-corrected", "detector", "none"]


@dataclasses.dataclass(frozen=True)
class Orientation:
    """How stored pixels are turned upright, with the patient's left at the viewer's right.

    Attributes:
      transpose: swap rows and columns, before the flips.
      flip_rows: swap top and bottom.
      flip_columns: swap left and right.
    """

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def to_upright(self, stored: Shaped[np.ndarray, "h w"]) -> Shaped[np.ndarray, "u v"]:
        """Returns stored pixels upright."""
        upright = stored.T if self.transpose else stored
        upright = upright[::-1] if self.flip_rows else upright
        return upright[:, ::-1] if self.flip_columns else upright

    def to_stored(self, upright: Shaped[np.ndarray, "u v"]) -> Shaped[np.ndarray, "h w"]:
        """Undoes `to_upright`."""
        stored = upright[:, ::-1] if self.flip_columns else upright
        stored = stored[::-1] if self.flip_rows else stored
        return stored.T if self.transpose else stored


# Memory for a DICOM file's content, its values and intensities, and what resizing needs.
BYTES_PER_PIXEL = 28


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """How files are read.

    Attributes:
      max_pixels: the largest image that is decoded; film digitisers end near 100 megapixels.
      frontal_only: refuse what the header says is no frontal chest radiograph, and images with next
        to no greys; doubt what does not look like one.
      correct_polarity: invert an image whose pixels contradict its photometric tag.
      sex_and_age: take a patient's sex and age from DICOM headers, where no list gives them.
    """

    max_pixels: int = round(DataConfig.max_megapixels * 1e6)
    frontal_only: bool = DataConfig.frontal_only
    correct_polarity: bool = DataConfig.correct_polarity
    sex_and_age: bool = DataConfig.sex_and_age

    @property
    def memory_bytes(self) -> int:
        """Memory that a process may take for the largest image, beyond that at its start."""
        return 2**29 + BYTES_PER_PIXEL * self.max_pixels


def read_options(data: DataConfig) -> ReadOptions:
    """Returns the options by which a configuration reads files."""
    return ReadOptions(
        max_pixels=round(data.max_megapixels * 1e6),
        frontal_only=data.frontal_only,
        correct_polarity=data.correct_polarity,
        sex_and_age=data.sex_and_age,
    )


def check_num_pixels(height: int, width: int, name: str, max_pixels: int) -> None:
    """Checks that an image is not too large to be decoded.

    Raises:
      DataError: it has more pixels than `max_pixels`.
    """
    if height * width > max_pixels:
        raise DataError(
            name,
            f"{height} x {width} pixels, more than {max_pixels / 1e6:g} million",
            "shrink it, or raise data.max_megapixels",
        )


# What is reported where a radiograph's `looks_frontal` is False.
NOT_LIKE_A_CHEST = "does not look like a frontal chest"


# Compared by identity: of arrays, `==` is not one answer.
@dataclasses.dataclass(frozen=True, eq=False)
class Radiograph:
    """Intensities and the spacing of one frontal chest radiograph.

    Attributes:
      pixels: in [0, 1], bone bright (the sense of MONOCHROME2), upright.
      spacing_mm: distance between pixel centres (row, column); `None` where it is not known.
      spacing_source: what the spacing was measured on. Distances on the detector exceed those in
        the patient by the magnification, 5 to 20 % on chest films.
      orientation: how the stored pixels were turned upright; masks drawn on the stored pixels need
        the same.
      orientation_stated: whether the file stated its orientation.
      looks_frontal: False where the pixels do not look like a frontal chest and this was checked.
        Large opacities and tilts make chests look like something else, too.
      notes: corrections and doubts, in our own words, never a header's.
    """

    pixels: Float32[np.ndarray, "h w"] = dataclasses.field(repr=False)
    spacing_mm: tuple[float, float] | None
    spacing_source: SpacingSource
    orientation: Orientation = Orientation()
    notes: tuple[str, ...] = ()
    orientation_stated: bool = False
    looks_frontal: bool = True

    @property
    def stored_spacing_mm(self) -> tuple[float, float] | None:
        """Distance between pixel centres (row, column) of the stored pixels."""
        if self.spacing_mm is None or not self.orientation.transpose:
            return self.spacing_mm
        row, column = self.spacing_mm
        return column, row

    @functools.cached_property
    def field(self) -> Box:
        """What networks see: the exposed field where bars beside it are wide, or the whole."""
        return exposed_field(self.pixels)
