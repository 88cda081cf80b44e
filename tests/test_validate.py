"""Networks measured on labelled pictures that no run has split."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lungseg_jax import compare
from lungseg_jax.config import DataConfig
from lungseg_jax.errors import ConfigError, DataError
from lungseg_jax.imaging.radiograph import read_options
from lungseg_jax.predict import predict
from lungseg_jax.prediction.segmenter import Segmenter
from lungseg_jax.validate import main, validate
from lungseg_jax.weights import Calibration, save_weights
from tests.pictures import chest, dicom_bytes, png_bytes
from tests.untrained import untrained_weights

# A picture of half lung, half not: the threshold of the median.
WEIGHTS = untrained_weights(Calibration(0.5))


def write_pictures(folder: Path) -> DataConfig:
    """Six pictures with masks, of which one is stored on its side."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(6):
        picture, mask = chest(120 + number, 110, number)
        content = png_bytes(picture)
        if number == 5:
            # Its rows run to the patient's feet's left, as a header says.
            picture, mask = np.rot90(picture), np.rot90(mask)
            content = dicom_bytes(np.ascontiguousarray(picture), {"PatientOrientation": ["H", "L"]})
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
    """Fault: another threshold or post-processing than users get; reference of another picture.

    Or a picture that is turned upright, measured against its mask as it lies.
    """
    data = write_pictures(tmp_path / "data")
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
    best, worst = (
        np.asarray(Image.open(tmp_path / "out" / "overlays" / f"{rank}.png"))
        for rank in ("best", "worst")
    )
    heights = {row["id"]: 120 + int(row["id"]) for row in rows}
    # Upright, whatever way it is stored.
    for picture, extreme in ((best, max(dice)), (worst, min(dice))):
        assert picture.shape[:2] == (heights[rows[dice.index(extreme)]["id"]], 110)


def test_bad_pictures_are_left_out_only_if_asked(tmp_path, segmenter, capsys):
    """Fault: figures of a part of the pictures, published as those of all."""
    data = write_pictures(tmp_path / "data")
    (tmp_path / "data" / "images" / "1.png").write_bytes(b"no picture")
    lateral = dicom_bytes(chest(120, 110, 0)[0], {"ViewPosition": "LL"})
    (tmp_path / "data" / "images" / "2.png").write_bytes(lateral)
    with pytest.raises(DataError, match=r"1\.png: .*neither DICOM, PNG nor JPEG"):
        validate(segmenter, data, tmp_path / "out")
    assert not (tmp_path / "out" / "metrics.json").exists()
    skipping = dataclasses.replace(data, on_error="skip")
    summary = validate(segmenter, skipping, tmp_path / "out")
    assert summary["external"]["num_left_out"] == 2
    assert [row["id"] for row in table(tmp_path / "out")] == ["0", "3", "4", "5"]
    said = capsys.readouterr().err
    assert "1.png: is of unknown format" in said
    assert "2.png: in view LL according to its header" in said


def test_nothing_to_measure_and_the_folder_of_a_run_are_refused(tmp_path, segmenter):
    """Fault: means of nothing; a run's own figures replaced by those of other pictures."""
    data = write_pictures(tmp_path / "data")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ConfigError, match="is the folder of a run"):
        validate(segmenter, data, tmp_path / "run")
    for path in (tmp_path / "data" / "images").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(DataError, match="all 6 labelled pictures are left out"):
        validate(segmenter, dataclasses.replace(data, on_error="skip"), tmp_path / "out")


def test_two_networks_are_compared_on_the_same_pictures(tmp_path, capsys):
    """Fault: a command that takes another network, and tables that cannot be compared."""
    data = write_pictures(tmp_path / "data")
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
    assert main(["validate", "--output=x"]) == 1
    assert "data.manual_dir: is empty" in capsys.readouterr().err
