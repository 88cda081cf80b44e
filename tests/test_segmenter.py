"""Networks with their program: one image or several, one network or several."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lungseg_jax.data.labels import CHANNELS
from lungseg_jax.errors import ConfigError, DataError
from lungseg_jax.imaging.files import radiograph_of
from lungseg_jax.imaging.radiograph import Radiograph, ReadOptions
from lungseg_jax.imaging.structures import Structure
from lungseg_jax.prediction.quality import estimate_dice
from lungseg_jax.prediction.segmenter import Segmenter
from lungseg_jax.weights import Calibration, Weights
from tests.images import chest, png_bytes
from tests.small import small_config
from tests.untrained import CHEST, untrained_weights


def test_both_ways_is_for_one_class():
    """Fault: right and left averaged with each other."""
    config = small_config(data__labels="left_right")
    weights = Weights(config, ({}, {}), Calibration())
    with pytest.raises(ConfigError, match="both_ways"):
        Segmenter(weights, both_ways=True)


def test_several_networks_give_their_mean():
    """Fault: one network's variables in all, or the threshold of the first alone."""
    members = [
        untrained_weights(Calibration(0.2 * seed, -1.0, 0.5 + 0.1 * seed), seed=seed)
        for seed in range(3)
    ]
    square = (np.random.default_rng(0).random((32, 32, 1)) * 65535).astype(np.uint16)
    each = [Segmenter(member).predict([square])[0] for member in members]
    assert np.ptp([prediction.square.mean() for prediction in each]) > 0.01, (
        "networks that do not differ"
    )
    (together,) = Segmenter(*members).predict([square])
    mean = np.mean([prediction.square for prediction in each], axis=0)
    np.testing.assert_allclose(together.square, mean, atol=1e-6)
    estimates = [prediction.estimated_dice for prediction in each]
    assert len(set(estimates)) > 1
    assert together.estimated_dice == pytest.approx(np.mean(estimates))
    # The mean of thresholds 0, .2 and .4.
    radiograph = Radiograph(np.float32(CHEST) / 255, None, "none")
    above = Segmenter(*members).finish(radiograph, together._replace(square=0 * mean + 0.21))
    below = Segmenter(*members).finish(radiograph, together._replace(square=0 * mean + 0.19))
    assert above.mask.all()
    assert not below.mask.any()


@pytest.mark.parametrize("slopes", [(None, -1.0), (-1.0, None), (-1.0, -1.0)])
def test_one_network_without_calibration_leaves_none(slopes: tuple):
    """Fault: masks rejected by an estimate that is in part no estimate of Dice."""
    segmenter = Segmenter(*[untrained_weights(Calibration(slope=slope)) for slope in slopes])
    assert segmenter.calibrated == (None not in slopes)


@pytest.mark.parametrize("change", [lambda x: x / 65535, lambda x: x[..., 0], np.float32])
def test_what_is_no_network_input_is_refused(untrained, change):
    """Fault: intensities in [0, 1] divided by 65535 again, and a mask of a black image."""
    square = np.full((32, 32, 1), 30000, np.uint16)
    assert len(untrained.predict([square])) == 1
    with pytest.raises(DataError, match=r"^square: .*; give \(32, 32, 1\) of uint16"):
        untrained.predict([change(square)])


@pytest.mark.parametrize("labels", ["lungs", "left_right"])
def test_probabilities_are_those_of_the_network_in_the_images_frame(labels: str):
    """Fault: classes merged, smoothed, or left in the model's square; another network loaded."""
    weights = untrained_weights(Calibration(), data__labels=labels, data__image_size=96)
    # At the square's own size nothing is resized.
    image = np.float32(chest(96, 96, 0)[0]) / 255
    segmenter, options = Segmenter(weights), ReadOptions(frontal_only=False)
    found = segmenter.probabilities(image, options)
    (logits,) = weights.network()(jnp.asarray(image[None, :, :, None]), train=False)
    assert np.ptp(logits) > 0.1, "an image that shows nothing"
    np.testing.assert_allclose(found, jax.nn.sigmoid(logits), atol=1e-4)
    assert segmenter.probabilities(CHEST, options).shape == (*CHEST.shape, logits.shape[-1])


def test_wide_bars_change_nothing_but_the_frame(untrained):
    """Fault: a child on a large plate not found, called a sliver, or found in another place."""
    image = np.pad(chest(200, 180, 0)[0], ((150, 230), (400, 80)))
    field = radiograph_of(image).field
    found, alone = untrained.segment(image), untrained.segment(field.cut(image))
    assert alone.mask.any()
    shape = image.shape
    np.testing.assert_array_equal(found.right, field.paste(alone.right, *shape))
    np.testing.assert_array_equal(found.left, field.paste(alone.left, *shape))
    np.testing.assert_array_equal(found.probabilities, field.paste(alone.probabilities, *shape))
    assert (found.doubts, found.estimated_dice) == (alone.doubts, alone.estimated_dice)
    assert any("wide bars" in note for note in found.notes)
    np.testing.assert_array_equal(
        untrained.probabilities(image),
        field.paste(untrained.probabilities(field.cut(image)), *shape),
    )


def test_bytes_of_a_file_are_segmented_as_the_file(tmp_path, untrained):
    """Fault: a service that gets files over a network has to write each to a disk first."""
    content = png_bytes(CHEST)
    (tmp_path / "1.png").write_bytes(content)
    of_bytes, of_file = untrained.segment(content), untrained.segment(tmp_path / "1.png")
    assert np.array_equal(of_bytes.mask, of_file.mask)
    assert of_bytes.estimated_dice == of_file.estimated_dice
    with pytest.raises(DataError, match=r"^bytes: "):
        untrained.segment(content[:100])
    with pytest.raises(DataError, match=r"^bytes: "):
        untrained.segment(content, ReadOptions(max_pixels=100))


def test_other_classes_are_no_lungs(monkeypatch):
    """Fault: a heart that comes out as the left lung, or raises the estimate of Dice."""
    monkeypatch.setitem(CHANNELS, "left_right", (Structure.HEART, Structure.LUNGS))
    segmenter = Segmenter(untrained_weights(Calibration(), data__labels="left_right"))
    (found,) = segmenter.predict([np.full((32, 32, 1), 30000, np.uint16)])
    lungs = found.square[..., 1]
    assert (found.square[..., 0] > lungs).any(), "the maximum over classes is that of the lungs"
    assert found.estimated_dice == pytest.approx(estimate_dice(lungs, Calibration()))
    heart = np.where([True, False], np.float32(0.9), np.float32(0.1)) + 0 * found.square
    radiograph = Radiograph(np.float32(CHEST) / 255, None, "none")
    assert not segmenter.finish(radiograph, found._replace(square=heart)).mask.any()


def test_segmenters_can_be_sent_to_other_processes():
    """Fault: a pool of processes cannot be given a network, or gets it without its mirroring."""
    segmenter = Segmenter(*[untrained_weights(Calibration(), seed=seed) for seed in range(2)])
    both = Segmenter(untrained_weights(Calibration()), both_ways=True)
    for given in (segmenter, both):
        got = pickle.loads(pickle.dumps(given))
        assert got.description() == given.description()
        np.testing.assert_array_equal(got.segment(CHEST).mask, given.segment(CHEST).mask)


def test_no_network_is_refused():
    """Fault: an empty pattern of runs ends in an error without a word."""
    with pytest.raises(ConfigError, match="names no network"):
        Segmenter(*[])


def test_networks_of_different_image_sizes_are_refused():
    """Fault: arrays of two sizes added, or one network's image shown to the other."""
    members = [untrained_weights(Calibration(), data__image_size=size) for size in (32, 64)]
    with pytest.raises(ConfigError, match="image_size"):
        Segmenter(*members)


def test_both_ways_is_symmetric_and_the_mean():
    """Fault: the mirrored prediction not mirrored back; a sum, which calls all of a chest lung."""
    weights = untrained_weights(Calibration(0.0))
    one, both = Segmenter(weights), Segmenter(weights, both_ways=True)
    square = (np.random.default_rng(0).random((32, 32, 1)) * 65535).astype(np.uint16)
    (as_is,), (mirrored,) = both.predict([square]), both.predict([square[:, ::-1]])
    np.testing.assert_allclose(mirrored.square, as_is.square[:, ::-1], atol=1e-5)
    (first,), (second,) = one.predict([square]), one.predict([square[:, ::-1]])
    mean = (first.square + second.square[:, ::-1]) / 2
    np.testing.assert_allclose(as_is.square, mean, atol=1e-5)
