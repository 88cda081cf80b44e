"""What the calibration of weights makes of predictions."""

import dataclasses

import jax
import numpy as np
import pytest

from lungseg_jax.errors import ConfigError
from lungseg_jax.export import calibration_of, fit_calibration, main
from lungseg_jax.metrics import dice_of
from lungseg_jax.optim import make_optimizer
from lungseg_jax.prediction import quality
from lungseg_jax.prediction.postprocessing import keep_lungs
from lungseg_jax.prediction.quality import outline_doubt
from lungseg_jax.state import create_state
from lungseg_jax.weights import MARGIN, Calibration, Weights, save_weights
from tests.small import small_config

SIDE = 64
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]


def disc(radius: float, softness: float, aside: float = 0.0):
    """Returns probabilities that fall from 1 to 0 about a circle, .5 at the radius."""
    distance = np.hypot(ROWS - SIDE / 2, COLUMNS - SIDE / 2 - aside) - radius
    return (1 / (1 + np.exp(distance / softness))).astype(np.float32)


@pytest.mark.parametrize("threshold", [0.35, 0.5, 0.6])
def test_threshold_of_the_best_dice(threshold: float):
    """Fault: the threshold of the worst Dice, or always the middle one."""
    squares = [disc(radius, 4.0) for radius in (14.0, 17.0, 20.0)]
    found = fit_calibration((square, square, square > threshold) for square in squares)
    assert found is not None
    assert found.threshold == pytest.approx(threshold, abs=0.026)


def test_underconfident_networks_are_estimated_by_their_measured_dice():
    """Fault: good masks of a short run rejected, because its probabilities expect less of them."""
    cases = [
        (np.clip(disc(20.0, softness), 0.3, 0.75), disc(20.0, 1.0, aside) > 0.5)
        for softness, aside in ((1.0, 0), (1.5, 0.5), (2.0, 1))
    ]
    found = fit_calibration((square, square, reference) for square, reference in cases)
    assert found is not None
    for square, reference in cases:
        dice = dice_of(keep_lungs(square, found.threshold), reference)
        assert dice > quality.expected_dice(square, reference) + 2 * MARGIN, "not too modest"
        assert quality.estimate_dice(square, found) == pytest.approx(dice, abs=0.03)


def test_doubt_lowers_the_estimate():
    """Fault: a line that rises with doubt, or one that misses the Dice it was fitted to."""
    cases = [
        (disc(20.0, softness), disc(20.0, 1.0, aside) > 0.5)
        for softness, aside in ((0.5, 0), (1, 2), (1.5, 4))
    ]
    found = fit_calibration((square, square, reference) for square, reference in cases)
    assert found is not None
    assert found.slope is not None
    for square, reference in cases:
        mask = square > found.threshold
        line = found.intercept + found.slope * outline_doubt(square, mask)
        assert line == pytest.approx(dice_of(mask, reference), abs=0.05)
    assert found.slope < 0


def test_images_that_are_alike_calibrate_no_estimate():
    """Fault: one estimate for all images, below the bound: every file of an archive rejected."""
    square = disc(20.0, 1.0)
    reference = disc(20.0, 1.0, 4) > 0.5
    found = fit_calibration([(square, square, reference)] * 4)
    assert found is not None
    assert found.slope is None
    assert dice_of(square > found.threshold, reference) < 0.9


def test_no_image_no_calibration():
    """Fault: a mean of nothing."""
    assert fit_calibration([]) is None


@pytest.mark.parametrize(
    "change", [{"data__image_size": 64}, {"data__labels": "left_right"}, {"model__width": 8}]
)
def test_calibration_is_taken_from_a_network_of_the_same_form(tmp_path, change: dict):
    """Fault: the threshold of a network of another size or of other labels, taken silently."""
    config = small_config()
    variables = jax.device_get(create_state(config, make_optimizer(config)).ema)
    path = tmp_path / "net.safetensors"
    save_weights(path, Weights(config, variables, Calibration(0.4, -5.0, 1.0)))
    half = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype="bfloat16"))
    assert calibration_of(str(path), half).threshold == 0.4
    with pytest.raises(ConfigError, match="another network"):
        calibration_of(str(path), small_config(**change))


@pytest.mark.parametrize("flag", ["--output", "--calibration"])
def test_weights_go_to_disk_alone(capsys, flag: str):
    """Fault: minutes of calibration before a library says that it does not know the address."""
    given = {"--output": "net.safetensors", flag: "s3://bucket/net.safetensors"}
    arguments = [f"{name}={value}" for name, value in given.items()]
    assert main(["export", "--checkpoint=runs/none", *arguments]) == 1
    said = capsys.readouterr().err
    assert said.startswith("Error: s3://bucket/net.safetensors: is not on disk")
