"""Networks measured on labelled images that no run has split."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from PIL import Image

from lungseg_jax import compare
from lungseg_jax.command_line import READING_KEYS
from lungseg_jax.config import DataConfig
from lungseg_jax.errors import ConfigError, DataError
from lungseg_jax.external import IMAGE_KEYS
from lungseg_jax.find_weights import say_if_trained_on
from lungseg_jax.imaging.overlay import draw_overlay
from lungseg_jax.imaging.radiograph import read_options
from lungseg_jax.imaging.surface import outline, surface_distances
from lungseg_jax.paths import VALIDATION
from lungseg_jax.predict import predict
from lungseg_jax.prediction.segmenter import Segmenter
from lungseg_jax.validate import main, validate
from lungseg_jax.weights import Calibration, load_weights, packaged_weights, save_weights
from lungseg_jax.workdir import check_free, claim
from tests.images import chest, dicom_bytes, png_bytes
from tests.small import REPOSITORY, small_config
from tests.untrained import untrained_weights
from tfds_builder.phantom import generate_phantom

# An image of half lung, half not: the threshold of the median.
WEIGHTS = untrained_weights(Calibration(0.5))


def write_images(folder: Path) -> DataConfig:
    """Six images with masks, of which one is stored on its side."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(6):
        pixels, mask = chest(120 + number, 110, number)
        content = png_bytes(pixels)
        if number == 5:
            # Its rows run to the patient's feet's left, as a header says.
            pixels, mask = np.rot90(pixels), np.rot90(mask)
            header = {"PatientOrientation": ["H", "L"], "ImagerPixelSpacing": ["0.2", "0.3"]}
            content = dicom_bytes(np.ascontiguousarray(pixels), header)
        (folder / "images" / f"{number}.{'dcm' if number == 5 else 'png'}").write_bytes(content)
        (folder / "masks" / f"{number}.png").write_bytes(png_bytes(np.ascontiguousarray(mask)))
    return DataConfig(source="folder", manual_dir=str(folder))


@pytest.fixture
def segmenter() -> Segmenter:
    """A network whose masks are neither empty nor whole."""
    (prediction,) = Segmenter(WEIGHTS).predict(
        [(np.random.default_rng(0).random((32, 32, 1)) * 65535).astype(np.uint16)]
    )
    threshold = float(np.median(prediction.square))
    return Segmenter(dataclasses.replace(WEIGHTS, calibration=Calibration(threshold)))


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "eval" / "external.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_figures_are_of_the_masks_that_predict_writes(tmp_path, segmenter):
    """Fault: another threshold or post-processing than users get; reference of another image.

    Or an image that is turned upright, measured against its mask as it lies.
    """
    data = write_images(tmp_path / "data")
    summary = validate(segmenter, data, tmp_path / "out")
    images = tmp_path / "data" / "images"
    predicted = predict(segmenter, [images], tmp_path / "masks", read_options(data))
    rows = table(tmp_path / "out")
    assert len(rows) == len(predicted) == 6
    for row, made in zip(rows, predicted, strict=True):
        found, reference = (
            np.asarray(Image.open(path)) > 127
            for path in (
                tmp_path / "masks" / made.mask,
                tmp_path / "data" / "masks" / f"{row['id']}.png",
            )
        )
        expected = 2 * np.count_nonzero(found & reference) / (found.sum() + reference.sum())
        assert made.file.startswith(row["id"])
        assert float(row["dice"]) == pytest.approx(expected)
        assert int(row["reference_px"]) == np.count_nonzero(reference)
        assert (row["status"], row["reason"]) == (made.status, made.reason)
        assert float(row["estimated_dice"]) == pytest.approx(made.estimated_dice, abs=2e-4)
    dice = [float(row["dice"]) for row in rows]
    assert 0 < min(dice) < max(dice) < 1
    assert summary == json.loads((tmp_path / "out" / "metrics.json").read_text())
    external = summary["external"]
    assert external["dice"] == pytest.approx(np.mean(dice))
    assert external["num_examples"] == 6
    accepted = [float(row["dice"]) for row in rows if row["status"] == "accepted"]
    assert external["accepted"]["num_examples"] == len(accepted)
    # Of the DICOM file alone the spacing is known: rows .2 mm apart, columns .3.
    assert [row["hd95_mm"] == "" for row in rows] == [True] * 5 + [False]
    outlines = [outline(mask) for mask in (found, reference)]
    distances = surface_distances(*outlines, (0.2, 0.3))
    assert distances
    assert float(rows[5]["hd95_mm"]) == pytest.approx(distances.hd95())
    best, worst = (
        np.asarray(Image.open(tmp_path / "out" / "overlays" / f"{rank}.png"))
        for rank in ("best", "worst")
    )
    heights = {row["id"]: 120 + int(row["id"]) for row in rows}
    # The sixth is turned upright.
    ranked = {rows[dice.index(extreme)]["id"] for extreme in (max(dice), min(dice))}
    for pixels, extreme in ((best, max(dice)), (worst, min(dice))):
        example = rows[dice.index(extreme)]["id"]
        assert pixels.shape[:2] == (heights[example], 110)
        if example != "5":
            grey, mask = chest(heights[example], 110, int(example))
            (name,) = (made.mask for made in predicted if made.file.startswith(example))
            made = np.asarray(Image.open(tmp_path / "masks" / name)) > 127
            expected = draw_overlay(np.float32(grey) / 255, made[..., None], mask[..., None] > 127)
            assert np.abs(pixels.astype(int) - expected).max() <= 1
    assert ranked != {"5"}, "no overlay was compared"


@pytest.mark.parametrize("mirrored", [False, True])
def test_sides_are_those_that_predict_tells(tmp_path, capsys, mirrored):
    """Fault: sides swapped by predict, or in the reference, that no figure shows."""
    phantom = generate_phantom(5, 4)
    turn = np.fliplr if mirrored else np.asarray
    for name, pixels in (
        ("images", np.rint(phantom.image * 255)),
        ("masks/left", phantom.left_lung * 255),
        ("masks/right", phantom.right_lung * 255),
    ):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        (folder / "0.png").write_bytes(png_bytes(np.ascontiguousarray(turn(pixels), np.uint8)))
    data = DataConfig(source="folder", manual_dir=str(tmp_path / "data"), masks="masks/*/{stem}*")
    weights = load_weights(packaged_weights())
    figures = validate(Segmenter(weights), data, tmp_path / "out")["external"]
    if not mirrored:
        # Fault: a folder called left for the reader's left, and zeros that nobody understands.
        for side, other in (("left", "right"), ("right", "left")):
            (tmp_path / "other" / "masks").mkdir(parents=True, exist_ok=True)
            source = tmp_path / "data" / "masks"
            shutil.copytree(source / side, tmp_path / "other" / "masks" / other)
        shutil.copytree(tmp_path / "data" / "images", tmp_path / "other" / "images")
        swapped = dataclasses.replace(data, manual_dir=str(tmp_path / "other"))
        found = validate(Segmenter(weights), swapped, tmp_path / "swapped")["external"]
        assert found["dice_right"] == found["dice_left"] == 0
        assert "right and left in 1 of 1 images, such as 0: check" in capsys.readouterr().err
    # An image without a header is taken for mirrored where its heart is on the wrong side.
    assert min(figures["dice_right"], figures["dice_left"]) > 0.9
    assert figures["dice"] > 0.9


def test_doubts_about_references_are_told(tmp_path, segmenter, capsys):
    """Fault: figures of masks that are empty, or a program's, without a word."""
    data = write_images(tmp_path)
    (tmp_path / "masks" / "2.png").write_bytes(png_bytes(np.zeros((122, 110), np.uint8)))
    validate(segmenter, data, tmp_path / "out")
    notes = {row["id"]: row["notes"].split("; ") for row in table(tmp_path / "out")}
    assert [name for name, of_image in notes.items() if "lung mask is empty" in of_image] == ["2"]
    assert "noted of 1 of 6 images: lung mask is empty" in capsys.readouterr().err


def test_images_of_a_patient_are_told_without_a_number(tmp_path, segmenter):
    """Fault: a hospital's number in a table that is passed on, or two images as two patients."""
    data = write_images(tmp_path / "data")
    for number, patient in ((1, "K-4711"), (3, "K-4711"), (4, "K-12")):
        (tmp_path / "data" / "images" / f"{number}.png").unlink()
        content = dicom_bytes(chest(120 + number, 110, number)[0], {"PatientID": patient})
        (tmp_path / "data" / "images" / f"{number}.dcm").write_bytes(content)
    summary = validate(segmenter, data, tmp_path / "out")
    assert [row["patient"] for row in table(tmp_path / "out")] == ["0", "1", "2", "1", "4", "5"]
    assert summary["external"]["num_patients"] == 5


@pytest.mark.parametrize("wanted", [False, True])
def test_sex_and_age_are_told_only_if_asked(tmp_path, segmenter, wanted: bool):
    """Fault: what a header says about a patient in a table that is passed on."""
    data = dataclasses.replace(write_images(tmp_path / "data"), sex_and_age=wanted)
    for number, sex, age in ((1, "F", "030Y"), (2, "M", "070Y")):
        (tmp_path / "data" / "images" / f"{number}.png").unlink()
        header = {"PatientSex": sex, "PatientAge": age}
        content = dicom_bytes(chest(120 + number, 110, number)[0], header)
        (tmp_path / "data" / "images" / f"{number}.dcm").write_bytes(content)
    summary = validate(segmenter, data, tmp_path / "out")["external"]
    assert ("sex" in table(tmp_path / "out")[0]) == wanted
    assert ("by_age" in summary) == wanted
    if wanted:
        assert set(summary["by_sex"]) == {"F", "M", "unknown"}
        assert set(summary["by_age"]) == {"18 to 39", "65 and over", "unknown"}


def test_surface_dice_is_at_the_tolerance_that_is_asked_for(tmp_path):
    """Fault: a key that is taken and does nothing, or a summary that tells another tolerance."""
    data = write_images(tmp_path / "data")
    save_weights(tmp_path / "x.safetensors", WEIGHTS)
    given = [f"--config.data.manual_dir={data.manual_dir}"]
    given += [f"--checkpoint={tmp_path / 'x.safetensors'}", "--config.evaluation.tolerance_mm=0.5"]
    found = []
    for tolerance in (1.0, 300.0):
        out = tmp_path / f"{tolerance}"
        arguments = [f"--config.evaluation.tolerance_px={tolerance}", f"--output={out}"]
        assert main(["validate", *given, *arguments]) == 0
        found.append(json.loads((out / "metrics.json").read_text())["external"])
    assert [each["tolerance_px"] for each in found] == [1.0, 300.0]
    assert found[0]["surface_dice"] < found[1]["surface_dice"] == 1.0
    # Of the image whose spacing is known.
    whole = [*given[:-1], "--config.evaluation.tolerance_mm=300"]
    assert main(["validate", *whole, f"--output={tmp_path / 'mm'}"]) == 0
    wide = json.loads((tmp_path / "mm" / "metrics.json").read_text())["external"]
    assert (found[0]["tolerance_mm"], wide["tolerance_mm"]) == (0.5, 300.0)
    assert found[0]["surface_dice_mm"] < wide["surface_dice_mm"] == 1.0


def test_bad_images_are_left_out_only_if_asked(tmp_path, segmenter, capsys):
    """Fault: figures of a part of the images, published as those of all."""
    data = write_images(tmp_path / "data")
    (tmp_path / "data" / "images" / "1.png").write_bytes(b"no image")
    lateral = dicom_bytes(chest(120, 110, 0)[0], {"ViewPosition": "LL"})
    (tmp_path / "data" / "images" / "2.png").write_bytes(lateral)
    with pytest.raises(DataError, match=r"1\.png: .*neither DICOM, PNG nor .*on_error=skip"):
        validate(segmenter, data, tmp_path / "out")
    assert not (tmp_path / "out" / "metrics.json").exists()
    skipping = dataclasses.replace(data, on_error="skip", max_bad_share=0.2)
    with pytest.raises(DataError, match="1 of 6 images are bad"):
        validate(segmenter, dataclasses.replace(skipping, max_bad_share=0.1), tmp_path / "out")
    summary = validate(segmenter, skipping, tmp_path / "out")
    assert summary["external"]["num_left_out"] == 2
    assert [row["id"] for row in table(tmp_path / "out")] == ["0", "3", "4", "5"]
    said = capsys.readouterr().err
    assert "1.png: is of unknown format" in said
    assert "2.png: in view LL according to its header" in said


@pytest.mark.parametrize("name", ["config.json", "metrics.json", "overlays/best.png"])
def test_files_of_others_stay(tmp_path, segmenter, name):
    """Fault: a run's own figures, or anybody's, replaced by those of other images."""
    data = write_images(tmp_path / "data")
    path = tmp_path / "taken" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(DataError, match=f"{name}: was not written by this command"):
        validate(segmenter, data, tmp_path / "taken")
    assert path.read_text() == "mine"


def test_its_own_folder_is_known(tmp_path, segmenter):
    """Fault: overlays segmented as patients' images, or figures that a training run replaces."""
    data = write_images(tmp_path / "data")
    out = tmp_path / "data" / "figures"
    for name in ("first", "second"):
        validate(segmenter, data, out, [(name, small_config())])
        assert json.loads((out / VALIDATION).read_text())["networks"] == [name]
    rows = predict(segmenter, [tmp_path / "data"], tmp_path / "masks", read_options(data))
    assert not any("figures" in row.file for row in rows)
    assert any(row.mask for row in rows)
    with pytest.raises(ConfigError, match=r"holds figures of lungseg_jax\.validate"):
        check_free(epath.Path(out), small_config())


# Makes a child that reads a file for as long as it is left alone.
WAIT = """
import sys
from lungseg_jax import {module}
from tests import deadly_reading
{module}.{reader} = deadly_reading.read_for_ever
sys.exit({module}.main(["{module}", *sys.argv[1:]]))
"""


@pytest.mark.parametrize(
    ("module", "reader", "flag"),
    [
        ("validate", "read_labelled_input", "--checkpoint={root}/x.safetensors"),
        ("measure", "read_labelled_and_mask", "--predicted={root}/data/masks/{{id}}.png"),
    ],
)
def test_an_interrupt_does_not_wait_for_a_reader(tmp_path, module, reader, flag):
    """Fault: a scheduler's grace time spent on waiting for a file, and the command killed."""
    data = write_images(tmp_path / "data")
    save_weights(tmp_path / "x.safetensors", WEIGHTS)
    command = [
        *(sys.executable, "-c", WAIT.format(module=module, reader=reader)),
        *(f"--config.data.manual_dir={data.manual_dir}", flag.format(root=tmp_path)),
        f"--output={tmp_path / 'out'}",
    ]
    started = tmp_path / "data" / "images" / "started"
    environment = os.environ | {"PYTHONPATH": os.fspath(REPOSITORY)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not started.exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        # A reader has a minute, twice.
        _, said = process.communicate(timeout=45)
    assert process.returncode == 143, said
    assert not (tmp_path / "out" / "metrics.json").exists()


@pytest.mark.parametrize(("folder", "warned"), [("own", True), ("link", True), ("other", False)])
def test_a_run_on_its_own_images_is_warned_of(tmp_path, capsys, folder, warned):
    """Fault: figures of images that the network was trained on, published as external."""
    (tmp_path / "own").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "own")
    trained, data = (
        DataConfig(source="folder", manual_dir=str(tmp_path / name)) for name in ("own", folder)
    )
    # A run without `splits.json`.
    say_if_trained_on("runs/first", trained, data, ["a"])
    assert ("runs/first was trained on images of this folder" in capsys.readouterr().err) == warned


@pytest.mark.parametrize(("ids", "count"), [(["a", "b", "c", "e"], 3), (["c", "d"], 0)])
def test_training_images_are_known_by_their_ids_in_any_folder(tmp_path, capsys, ids, count):
    """Fault: a copy of the training images in another folder, measured as external."""
    splits = {"train": ["a"], "val": ["b"], "test": ["c"]}
    # What a run started from was trained on others.
    before = small_config()
    after = small_config(start_from=str(tmp_path / "before" / "checkpoints" / "7"))
    for name, config, train in (("before", before, ["e"]), ("run", after, ["a"])):
        claim(epath.Path(tmp_path / name), config)
        content = json.dumps(splits | {"train": train})
        (tmp_path / name / "splits.json").write_text(content)
    trained, data = (
        DataConfig(source="folder", manual_dir=name) for name in ("/archive", "/copies")
    )
    for name in (str(tmp_path / "run"), str(tmp_path / "run" / "checkpoints" / "50")):
        say_if_trained_on(name, trained, data, ids)
        said = capsys.readouterr().err
        assert (f"{count} of {len(ids)} images have ids of images that it was trained" in said) == (
            count > 0
        )


def test_nothing_to_measure_is_refused(tmp_path, segmenter):
    """Fault: means of nothing."""
    data = write_images(tmp_path / "data")
    for path in (tmp_path / "data" / "images").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="all 6 labelled images are left out"):
        validate(segmenter, dataclasses.replace(data, on_error="skip"), tmp_path / "out")


def test_two_networks_are_compared_on_the_same_images(tmp_path, capsys):
    """Fault: a command that takes another network, and tables that cannot be compared."""
    data = write_images(tmp_path / "data")
    for seed in range(2):
        path = tmp_path / f"{seed}.safetensors"
        save_weights(path, untrained_weights(Calibration(0.5), seed=seed))
        given = [f"--config.data.manual_dir={data.manual_dir}", f"--checkpoint={path}"]
        assert main(["validate", *given, f"--output={tmp_path / str(seed)}"]) == 0
    first, second = (str(tmp_path / str(seed)) for seed in range(2))
    assert compare.main(["compare", first, second, "--split=external"]) == 0
    assert "dice" in capsys.readouterr().out
    means = [np.mean([float(row["iou"]) for row in table(Path(each))]) for each in (first, second)]
    assert means[0] != means[1]
    assert compare.main(["compare", first, second]) == 1
    assert "--split=external" in capsys.readouterr().err
    assert main(["validate", *given, "--both_ways", f"--output={tmp_path / 'both'}"]) == 0
    assert sorted(json.loads((tmp_path / "both" / VALIDATION).read_text())["data"]) == sorted(
        (*IMAGE_KEYS, *READING_KEYS)
    )
    identities = {
        json.loads((Path(each) / VALIDATION).read_text())["identity"]
        for each in (first, second, tmp_path / "both")
    }
    assert len(identities) == 3
    for word, said in (
        ("--config=configs/unet.py", "a file is given as --config"),
        ("--config.data.source=phantom", "read them as source folder"),
    ):
        assert main(["validate", word, "--output=x"]) == 1
        assert said in capsys.readouterr().err
    assert main(["validate", "--output=x"]) == 1
    assert "data.manual_dir: is empty" in capsys.readouterr().err


def test_a_split_file_leaves_the_images_that_were_trained_on_out(tmp_path, segmenter, capsys):
    """Fault: a fine-tuned network measured on the very images it was tuned on."""
    data = write_images(tmp_path / "data")
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps({"train": ["0", "1"], "val": ["2"], "test": ["3", "5"]}))
    data = dataclasses.replace(data, splits=str(splits))
    summary = validate(segmenter, data, tmp_path / "out")
    assert [row["id"] for row in table(tmp_path / "out")] == ["3", "5"]
    assert summary["external"]["num_examples"] == 2
    note = json.loads((tmp_path / "out" / VALIDATION).read_text())
    assert note["data"]["splits"] == str(splits)
    say_if_trained_on("run", data, dataclasses.replace(data, splits=""), ["0"])
    assert "figures will be too high" in capsys.readouterr().err
    say_if_trained_on("run", data, data, ["3"])
    assert "too high" not in capsys.readouterr().err
    splits.write_text(json.dumps({"train": ["0"], "val": ["2"], "test": ["3", "7"]}))
    with pytest.raises(ConfigError, match="test lists '7', which is not in the data"):
        validate(segmenter, data, tmp_path / "other")
