"""A radiograph in memory, whatever file it came from."""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float32

SpacingSource = Literal["calibrated", "magnification-corrected", "detector", "none"]


@dataclasses.dataclass(frozen=True)
class Radiograph:
    """Intensities and the spacing of one frontal chest radiograph.

    Attributes:
      pixels: in [0, 1], bone bright (the sense of MONOCHROME2).
      spacing_mm: distance between pixel centres (row, column); `None` where it is not known.
      spacing_source: what the spacing was measured on. Distances on the detector exceed those in
        the patient by the magnification, 5 to 20 % on chest films.
    """

    pixels: Float32[np.ndarray, "h w"]
    spacing_mm: tuple[float, float] | None
    spacing_source: SpacingSource
