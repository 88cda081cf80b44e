"""Evaluation: each example once, in its original frame."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from lungseg_jax.data.records import open_records
from lungseg_jax.evaluate import Evaluator, predicted_mask, to_original
from lungseg_jax.imaging.geometry import fit_to_square, from_square
from lungseg_jax.imaging.overlay import draw_overlay
from lungseg_jax.optim import make_optimizer
from lungseg_jax.parallel import Parallel
from lungseg_jax.state import create_state
from tests.images import chest, dicom_bytes, png_bytes
from tests.small import (
    compilations_counted,
    small_config,
    small_config_with_data,
    write_small_data,
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return small_config_with_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def records(config):
    return open_records(config)


def evaluator_and_variables(config, parallel):
    state = create_state(config, make_optimizer(config))
    return Evaluator(config, parallel), parallel.replicate(state.ema)


def test_a_batch_is_sent_before_the_last_is_fetched(config, records, eight_devices, monkeypatch):
    """Fault: a device that waits while the host fetches and measures what it has just computed."""
    parallel = Parallel("mesh", eight_devices)
    evaluator, variables = evaluator_and_variables(config, parallel)
    events = []
    forward, collect = evaluator.forward, Parallel.collect

    def forward_told(*arguments):
        events.append("sent")
        return forward(*arguments)

    def collect_told(*arguments):
        events.append("fetched")
        return collect(*arguments)

    monkeypatch.setattr(evaluator, "forward", forward_told)
    monkeypatch.setattr(Parallel, "collect", collect_told)
    positions = range(len(records["train"]))
    assert len(list(evaluator.predict(variables, records["train"], positions))) == len(positions)
    batches = -(-len(positions) // evaluator.batch_size)
    assert batches > 2
    assert events == ["sent", *["sent", "fetched"] * (batches - 1), "fetched"]


@pytest.mark.parametrize(("kind", "devices"), [("mesh", 1), ("mesh", 8), ("pmap", 8), ("pmap", 4)])
def test_every_example_once_with_one_compilation(config, records, eight_devices, kind, devices):
    """Fault: examples lost or counted twice in the last batch; recompilation on a ragged one."""
    parallel = Parallel(kind, eight_devices[:devices])
    evaluator, variables = evaluator_and_variables(config, parallel)
    compilations = []
    for split in ("train", "test"):
        positions = range(len(records[split]))
        assert len(positions) % evaluator.batch_size
        with compilations_counted() as count:
            pairs = list(evaluator.predict(variables, records[split], positions))
        assert [position for position, _ in pairs] == list(positions)
        compilations.append(count())
    assert compilations[0] > 0, "the counter does not count"
    assert compilations[1] == 0


@pytest.mark.parametrize(("kind", "devices", "batch"), [("mesh", 1, 4), ("pmap", 8, 8)])
def test_prediction_belongs_to_its_image(config, records, eight_devices, kind, devices, batch):
    """Fault: another example's prediction in a row, or a filler's."""
    config = dataclasses.replace(
        config, evaluation=dataclasses.replace(config.evaluation, batch_size=batch)
    )
    parallel = Parallel(kind, eight_devices[:devices])
    evaluator, variables = evaluator_and_variables(config, parallel)
    # In place of the network: a function by which each image is known again.
    evaluator.forward = parallel.wrap_forward(
        lambda _, images: (images < 32768).astype(jnp.float32)
    )
    train_records = records["train"]
    for position, square in evaluator.predict(variables, train_records, range(len(train_records))):
        expected = train_records.samples([position]).image[0] < 32768
        np.testing.assert_array_equal(square, expected)
    for position, row in enumerate(evaluator.measure(variables, train_records)):
        example = train_records.example(position)
        square = train_records.samples([position]).image[0] < 32768
        predicted = predicted_mask(square.astype(np.float32), example)
        common = np.count_nonzero(predicted & (example.original_mask > 0))
        total = predicted.sum() + example.original_mask.sum()
        assert row.id == example.example_id
        assert row.dice == pytest.approx(2 * common / total)
        probability = to_original(square.astype(np.float32), example)
        given = np.where(example.original_mask > 0, probability, 1 - probability)
        assert row.cross_entropy == pytest.approx(-np.log(np.maximum(given, 1e-7)).mean(), 0.02)
        assert row.predicted_px == predicted.sum()
        assert row.reference_px == np.count_nonzero(example.original_mask)
        assert (type(row.predicted_px), type(row.reference_px)) == (int, int)


def test_perfect_prediction_is_nearly_perfect_in_the_original_frame(records):
    """Fault: an off-by-half-pixel, or the padding, in the way back to the original frame."""
    for position in range(len(records["train"])):
        example = records["train"].example(position)
        square = records["train"].samples([position]).mask[0].astype(np.float32)
        mask = predicted_mask(square, example)
        assert mask.shape == example.original_mask.shape
        # Sides of 32 to 34 in a square of 32: only the outline may differ.
        differing = np.argwhere(mask != (example.original_mask > 0))
        reference = np.argwhere(example.original_mask)
        assert len(differing) < 0.12 * len(reference)
        shift = np.argwhere(mask).mean(axis=0) - reference.mean(axis=0)
        assert np.abs(shift).max() < 0.12


def test_masks_of_an_exposed_field_lie_where_it_lies(tmp_path):
    """Fault: the masks of an image with wide bars enlarged to the whole image, or shifted."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        for number in range(10):
            pixels = np.pad(chest(80, 72, number)[name == "masks"], ((90, 140), (200, 60)))
            (tmp_path / name / f"{number}.png").write_bytes(png_bytes(pixels))
    config = small_config(
        data__source="folder",
        data__manual_dir=str(tmp_path),
        data__data_dir=str(tmp_path / "records"),
    )
    records = open_records(config)["train"]
    mask = records.samples([0]).mask[0]
    assert mask.mean() > 0.15, "the square shows more than the field"
    example = records.example(0)
    found, reference = predicted_mask(mask.astype(np.float32), example), example.original_mask > 0
    assert np.count_nonzero(found & reference) > 0.9 * np.count_nonzero(found | reference)


def test_distances_are_measured_in_the_spacing_and_at_the_tolerance_of_each(
    tmp_path, eight_devices
):
    """Fault: rows and columns of a file's spacing exchanged; a tolerance in mm taken for pixels."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number in range(10):
        image, mask = chest(40, 36, number)
        header = {"PatientID": f"{number}", "ImagerPixelSpacing": ["0.2", "0.3"]}
        content = dicom_bytes(image, header)
        (tmp_path / "images" / f"{number}.dcm").write_bytes(content)
        (tmp_path / "masks" / f"{number}.png").write_bytes(png_bytes(mask))
    config = small_config(
        data__source="folder",
        data__manual_dir=str(tmp_path),
        data__data_dir=str(tmp_path / "records"),
        evaluation__tolerance_px=2.0,
    )
    records = open_records(config)["test"]
    assert records.example(0).spacing_mm == pytest.approx((0.2, 0.3))
    rows = []
    for tolerance_mm in (0.05, 1.0):
        changed = dataclasses.replace(config.evaluation, tolerance_mm=tolerance_mm)
        config = dataclasses.replace(config, evaluation=changed)
        parallel = Parallel("mesh", eight_devices[:1])
        evaluator, variables = evaluator_and_variables(config, parallel)
        # In place of the network: what is dark, three rows too low.
        evaluator.forward = parallel.wrap_forward(
            lambda _, images: jnp.roll(images < 32768, 3, axis=1).astype(jnp.float32)
        )
        rows.append(evaluator.measure(variables, records)[0])
    strict, loose = rows
    assert strict.surface_dice == loose.surface_dice
    assert strict.surface_dice_mm < strict.surface_dice < loose.surface_dice_mm


def test_overlays_show_the_asked_examples(config, records, eight_devices):
    """Fault: images of other examples than those ranked."""
    parallel = Parallel("mesh", eight_devices[:2])
    evaluator, variables = evaluator_and_variables(config, parallel)
    overlays = evaluator.overlays(variables, records["test"], [4, 0])
    assert set(overlays) == {4, 0}
    assert overlays[4].shape != overlays[0].shape or (overlays[4] != overlays[0]).any()
    squares = dict(evaluator.predict(variables, records["test"], [4, 0]))
    for position, overlay in overlays.items():
        example = records["test"].example(position)
        height, width, _ = example.original_mask.shape
        fit = fit_to_square(height, width, config.data.image_size)
        grey = from_square(np.float32(records["test"].images([position])[0, ..., 0]) / 65535, fit)
        found = predicted_mask(squares[position], example)
        expected = draw_overlay(grey, found, example.original_mask > 0)
        np.testing.assert_array_equal(overlay, expected)


def test_patients_and_findings_of_a_list_are_told_without_their_numbers(tmp_path, eight_devices):
    """Fault: a hospital's number in records or tables; two images of one patient as of two."""
    root = write_small_data(tmp_path / "archive")
    stems = [path.stem for path in sorted((root / "masks").iterdir())]
    patient_of = {stem: f"K-47{number // 2:02}" for number, stem in enumerate(stems)}
    findings = {stem: ("normal", "abnormal")[number % 4 // 2] for number, stem in enumerate(stems)}
    lines = [f"CXR_png/{x}.png,masks/{x}.png,{patient_of[x]},{findings[x]}" for x in stems]
    (root / "pairs.csv").write_text("\n".join(["image,mask,patient,finding", *lines]))
    config = small_config(
        data__source="folder", data__manual_dir=str(root), data__data_dir=str(tmp_path / "records")
    )
    records = open_records(config)["test"]
    for path in (tmp_path / "records").rglob("*"):
        assert path.is_dir() or b"K-47" not in path.read_bytes(), path
    evaluator, variables = evaluator_and_variables(config, Parallel("mesh", eight_devices))
    rows = evaluator.measure(variables, records)
    assert len(rows) == 6
    first: dict[str, str] = {}
    for row in rows:
        assert row.patient == first.setdefault(patient_of[row.id], row.id)
        assert row.finding == findings[row.id]
    assert len(first) == 3
