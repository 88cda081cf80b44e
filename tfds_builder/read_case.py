"""A case's picture and masks, decoded; imports are light, because worker processes run it."""

import dataclasses
import os
from collections.abc import Mapping

import numpy as np
from etils import epath
from jaxtyping import Bool, UInt8, UInt16

from lungseg_jax.imaging import files
from lungseg_jax.imaging.network_input import network_input
from lungseg_jax.imaging.radiograph import Radiograph, ReadOptions
from lungseg_jax.imaging.structures import Structure
from tfds_builder.masks import read_structures
from tfds_builder.sources import Case, documented_spacing


@dataclasses.dataclass(frozen=True)
class Labelled:
    """A picture, and where its lungs are.

    Attributes:
      radiograph: the picture.
      square: what a network sees of it; see `network_input`.
      lungs: the reference, in the frame of the file.
    """

    radiograph: Radiograph
    square: UInt16[np.ndarray, "s s 1"]
    lungs: Bool[np.ndarray, "h w"]


def read_case(
    case: Case, contents: Mapping[epath.Path, bytes], reading: ReadOptions
) -> tuple[Radiograph, UInt8[np.ndarray, "h w"], tuple[str, ...]]:
    """Returns a case's radiograph, its mask as stored, a bit for each structure, and notes on that.

    Where the file tells no spacing, the radiograph has what the data set's documentation tells.

    Args:
      case: whose files these are.
      contents: of the files, by their paths.
      reading: how files are read.

    Raises:
      NotFrontalError: by its header, a picture of something else than a frontal chest.
      DataError: a file cannot be read, or the masks do not fit the picture.
    """
    radiograph = files.decode_radiograph(contents[case.image], os.fspath(case.image), reading)
    turn = radiograph.orientation
    height, width = turn.to_stored(radiograph.pixels).shape
    mask, notes = read_structures(case, contents, (height, width), turn, reading.max_pixels)
    documented = documented_spacing(case, radiograph.pixels.shape)
    if radiograph.spacing_mm is None and documented is not None:
        radiograph = dataclasses.replace(
            radiograph, spacing_mm=documented, spacing_source="detector"
        )
    return radiograph, mask, notes


def read_labelled(case: Case, reading: ReadOptions, size: int) -> Labelled:
    """Returns a case as a network, and those who judge it, need it.

    Args:
      case: its files.
      reading: how they are read.
      size: side of the model's square.

    Raises:
      NotFrontalError: see `read_case`.
      DataError: see `read_case`, or the picture is too small.
    """
    contents = {path: files.read_bytes(path) for path in case.files()}
    radiograph, mask, _ = read_case(case, contents, reading)
    square = network_input(radiograph, case.image.name, size)
    return Labelled(radiograph, square, (mask & np.uint8(Structure.LUNGS)) > 0)
