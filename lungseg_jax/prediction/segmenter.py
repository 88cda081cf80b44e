"""Trained networks with their compiled program: images in, segmentations out."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jaxtyping import Float32, Shaped, UInt16
from numpy.typing import ArrayLike

from lungseg_jax.config import Labels
from lungseg_jax.data.labels import lungs_of, tells_sides
from lungseg_jax.errors import ConfigError, DataError
from lungseg_jax.imaging.files import as_array, decode_radiograph, radiograph_of, read_radiograph
from lungseg_jax.imaging.geometry import channels_from_square
from lungseg_jax.imaging.network_input import network_input
from lungseg_jax.imaging.radiograph import Radiograph, ReadOptions
from lungseg_jax.network import compute_dtype, make_forward
from lungseg_jax.paths import local_path
from lungseg_jax.prediction.quality import estimate_dice
from lungseg_jax.prediction.segmentation import Segmentation, make_segmentation
from lungseg_jax.weights import Weights, checksum

# Images at a time; a CPU gains nothing from a larger batch.
BATCH_SIZE = 4


class Prediction(NamedTuple):
    """What networks say about one image.

    Attributes:
      square: probability of each class in the model's square, the mean of all networks.
      estimated_dice: estimate of the mask's Dice, the mean of what each network's own probabilities
        tell. The mean probabilities are less sure than any of them.
    """

    square: Float32[np.ndarray, "s s c"]
    estimated_dice: float


class Segmenter:
    """Segments radiographs with one network, or with the mean of several.

    Args:
      members: weights of each network; the threshold is the mean of theirs.
      both_ways: average each prediction with that of the mirrored image, at twice the work.

    Raises:
      ConfigError: there is no network, both ways are requested of one that tells right from left,
        or the networks differ in what they see or tell.

    Attributes:
      image_size: side of the model's square in pixels.
      calibrated: whether every network's estimate of Dice is calibrated.
      threshold: probability above which a pixel is lung, the mean of the networks'.
    """

    def __init__(self, *members: Weights, both_ways: bool = False) -> None:
        if not members:
            raise ConfigError("--checkpoint", "names no network", "give one or several")
        data = [member.config.data for member in members]
        if len({(each.image_size, each.labels) for each in data}) > 1:
            raise ConfigError(
                "--checkpoint",
                "networks differ in data.image_size or data.labels",
                "give equal ones",
            )
        if both_ways and tells_sides(data[0].labels):
            # On a mirrored image, such a network calls the right lung the left one.
            raise ConfigError(
                "--both_ways", "needs a network with data.labels=lungs", "leave it out"
            )
        self._both_ways = both_ways
        self._weights = members
        self.image_size = data[0].image_size
        self._labels: Labels = data[0].labels
        self.calibrated = all(member.calibration.slope is not None for member in members)
        self.threshold = float(np.mean([member.calibration.threshold for member in members]))
        # Networks of one form share a program.
        forwards = {x.config.model: jax.jit(make_forward(x.config)) for x in members}
        self._members = [
            # Once, not at each call.
            (forwards[member.config.model], jax.device_put(member.variables), member.calibration)
            for member in members
        ]

    def __reduce__(self) -> tuple[Any, ...]:
        # Compiled programs cannot be sent to another process: it compiles its own.
        return functools.partial(type(self), both_ways=self._both_ways), self._weights

    def description(self) -> dict[str, Any]:
        """Returns the networks and how they are used, as JSON values."""
        networks = [
            {
                "checksum_of_weights": checksum(weights.variables),
                "model": dataclasses.asdict(weights.config.model),
                "computed_in": str(compute_dtype(weights.config)),
                "calibration": dataclasses.asdict(weights.calibration),
            }
            for weights in self._weights
        ]
        return {
            "networks": networks,
            "image_size": self.image_size,
            "labels": self._labels,
            "threshold": self.threshold,
            "both_ways": self._both_ways,
        }

    def identity(self) -> str:
        """Returns a checksum of the networks and of how they are used."""
        digest = hashlib.sha256(repr((self._both_ways, jax.default_backend())).encode())
        for weights in self._weights:
            data = weights.config.data
            parts = (
                weights.config.model,
                str(compute_dtype(weights.config)),
                data.image_size,
                data.labels,
                weights.calibration,
            )
            digest.update(f"{parts} {checksum(weights.variables)}".encode())
        return digest.hexdigest()

    def segment(
        self, image: epath.PathLike | ArrayLike, options: ReadOptions = ReadOptions()
    ) -> Segmentation:
        """Returns the lungs on an image.

        Args:
          image: DICOM, PNG or JPEG file, its bytes, or an array; see `files.radiograph_of`.
          options: how files are read and what is checked.

        Raises:
          NotFrontalError: by its header, an image of something other than a frontal chest.
          DataError: the file cannot be read, the array is not an image, or it is too small.
        """
        radiograph, square = self._read(image, options)
        (prediction,) = self.predict([square])
        return self.finish(radiograph, prediction)

    def probabilities(
        self, image: epath.PathLike | ArrayLike, options: ReadOptions = ReadOptions()
    ) -> Float32[np.ndarray, "h w c"]:
        """Returns the probability of each class in the frame of the file or array, not smoothed.

        Args:
          image: see `segment`.
          options: see `segment`.

        Raises:
          NotFrontalError: by its header, an image of something other than a frontal chest.
          DataError: the file cannot be read, the array is not an image, or it is too small.
        """
        radiograph, square = self._read(image, options)
        (prediction,) = self.predict([square])
        field = radiograph.field
        seen = channels_from_square(prediction.square, field)
        upright = field.paste(seen, *radiograph.pixels.shape)
        stored = map(radiograph.orientation.to_stored, np.moveaxis(upright, -1, 0))
        return np.stack(list(stored), axis=-1)

    def _read(
        self, image: epath.PathLike | ArrayLike, options: ReadOptions
    ) -> tuple[Radiograph, UInt16[np.ndarray, "s s 1"]]:
        """Returns the radiograph, and the networks' input."""
        if isinstance(image, str | os.PathLike):
            path = local_path(image)
            radiograph, name = read_radiograph(path, options), path.name
        elif isinstance(image, bytes):
            radiograph, name = decode_radiograph(image, "bytes", options), "bytes"
        else:
            radiograph, name = radiograph_of(as_array(image), options), "array"
        return radiograph, network_input(radiograph, name, self.image_size)

    def predict(self, squares: Sequence[Shaped[np.ndarray, "..."]]) -> list[Prediction]:
        """Returns what the networks say about up to `BATCH_SIZE` images.

        Args:
          squares: images as `network_input` returns them.

        Raises:
          DataError: one is of another type or shape.
        """
        for square in squares:
            self._check_square(square)
        # Padded by repetition to one of two shapes, so that no third program is compiled.
        size = 1 if len(squares) == 1 else BATCH_SIZE
        batch = np.stack([*squares, *[squares[0]] * (size - len(squares))])
        total, estimates = np.zeros(1, np.float32), np.zeros(len(squares))
        for forward, variables, calibration in self._members:
            probabilities = np.asarray(forward(variables, batch))
            lungs = lungs_of(probabilities[: len(squares)], self._labels).max(axis=-1)
            estimates += [estimate_dice(x, calibration) for x in lungs]
            if self._both_ways:
                mirrored = np.asarray(forward(variables, batch[:, :, ::-1]))
                probabilities = (probabilities + mirrored[:, :, ::-1]) / 2
            total = total + probabilities
        count = len(self._members)
        return [
            Prediction(x, float(y)) for x, y in zip(total / count, estimates / count, strict=False)
        ]

    def _check_square(self, square: Shaped[np.ndarray, "..."]) -> None:
        """Refuses intensities in [0, 1]: the network would see them as all but black."""
        expected = (self.image_size, self.image_size, 1)
        if square.dtype != np.uint16 or square.shape != expected:
            raise DataError(
                "square",
                f"is of shape {square.shape} and type {square.dtype}",
                f"give {expected} of uint16, intensity x 65535, as network_input returns it; "
                "segment takes any image",
            )

    def finish(self, radiograph: Radiograph, prediction: Prediction) -> Segmentation:
        """Returns the segmentation that a prediction gives in the image's own frame."""
        return make_segmentation(
            radiograph,
            lungs_of(prediction.square, self._labels),
            self.threshold,
            prediction.estimated_dice,
            calibrated=self.calibrated,
        )
