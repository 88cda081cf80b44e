"""Trained networks with their program compiled: pictures in, segmentations out."""

import os
from collections.abc import Sequence

import jax
import numpy as np
from etils import epath
from jaxtyping import Float32, UInt16
from numpy.typing import ArrayLike

from lungseg_jax.errors import ConfigError
from lungseg_jax.forward import make_forward
from lungseg_jax.imaging.files import radiograph_of, read_radiograph
from lungseg_jax.imaging.network_input import network_input
from lungseg_jax.imaging.radiograph import Radiograph, ReadOptions
from lungseg_jax.segmentation import Segmentation, make_segmentation
from lungseg_jax.weights import Weights, mean_calibration

# Pictures at a time; of a larger batch a CPU makes no use.
BATCH_SIZE = 4


class Segmenter:
    """Segments radiographs with one network, or with the mean of several.

    Args:
      members: weights of each network; threshold and calibration are the mean of theirs.
      both_ways: average each prediction with that of the mirrored picture, at twice the work.

    Raises:
      ConfigError: both ways are asked of a network that tells right from left, or the networks
        differ in what they see or tell.

    Attributes:
      image_size: side of the model's square in pixels.
    """

    def __init__(self, *members: Weights, both_ways: bool = False) -> None:
        assert members
        data = [own.config.data for own in members]
        if len({(own.image_size, own.labels) for own in data}) > 1:
            raise ConfigError(
                "--checkpoint",
                "networks differ in data.image_size or data.labels",
                "give equal ones",
            )
        if both_ways and data[0].labels != "lungs":
            # Mirrored, a network of two classes calls the right lung the left one.
            raise ConfigError(
                "--both_ways", "is for networks of one class", "leave it out for left_right"
            )
        self._both_ways = both_ways
        self.image_size = data[0].image_size
        self._calibration = mean_calibration([own.calibration for own in members])
        # Networks of one form share a program.
        forwards = {own.config.model: jax.jit(make_forward(own.config)) for own in members}
        self._members = [(forwards[own.config.model], own.variables) for own in members]

    def segment(
        self, picture: epath.PathLike | ArrayLike, options: ReadOptions = ReadOptions()
    ) -> Segmentation:
        """Returns the lungs on a picture.

        Args:
          picture: DICOM, PNG or JPEG file, or an array; see `files.radiograph_of`.
          options: how files are read and what is checked.

        Raises:
          NotFrontalError: a picture of something else than a frontal chest.
          DataError: the file cannot be read, or the array is no picture.
        """
        if isinstance(picture, str | os.PathLike):
            path = epath.Path(picture)
            radiograph, name = read_radiograph(path, options), path.name
        else:
            radiograph, name = radiograph_of(np.asarray(picture), options), "array"
        (square,) = self.predict([network_input(radiograph, name, self.image_size)])
        return self.finish(radiograph, square)

    def predict(
        self, squares: Sequence[UInt16[np.ndarray, "s s 1"]]
    ) -> list[Float32[np.ndarray, "s s c"]]:
        """Returns the probability of each class in the model's square, for up to `BATCH_SIZE`.

        Args:
          squares: of `network_input`.
        """
        # Repeated up to one of two shapes, so that no third program is compiled.
        size = 1 if len(squares) == 1 else BATCH_SIZE
        batch = np.stack([*squares, *[squares[0]] * (size - len(squares))])
        probabilities = self._mean(batch)
        if self._both_ways:
            probabilities = (probabilities + self._mean(batch[:, :, ::-1])[:, :, ::-1]) / 2
        return list(probabilities[: len(squares)])

    def finish(self, radiograph: Radiograph, square: Float32[np.ndarray, "s s c"]) -> Segmentation:
        """Returns what is made of probabilities in the model's square."""
        return make_segmentation(radiograph, square, self._calibration)

    def _mean(self, batch: UInt16[np.ndarray, "b s s 1"]) -> Float32[np.ndarray, "b s s c"]:
        each = [np.asarray(forward(variables, batch)) for forward, variables in self._members]
        return np.mean(each, axis=0)
