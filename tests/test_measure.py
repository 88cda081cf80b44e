"""Masks of other programs, measured as those of predict are."""

import csv
import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lungseg_jax import compare
from lungseg_jax.config import DataConfig
from lungseg_jax.errors import ConfigError, DataError
from lungseg_jax.external import ExternalMetrics
from lungseg_jax.imaging.dicom_seg import encode_dicom_seg
from lungseg_jax.imaging.radiograph import ReadOptions, read_options
from lungseg_jax.measure import main, measure
from lungseg_jax.predict import predict
from lungseg_jax.validate import validate
from tests.images import chest, dicom_bytes, png_bytes
from tests.test_seg_mask import STUDY
from tests.test_validate import segmenter, table, write_images

__all__ = ["segmenter"]


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    return write_images(tmp_path / "data")


@pytest.fixture
def copies(tmp_path: Path, data: DataConfig) -> str:
    """The references, as another program's masks."""
    shutil.copytree(Path(data.manual_dir) / "masks", tmp_path / "masks")
    return str(tmp_path / "masks" / "{id}.png")


def test_masks_of_predict_have_the_figures_of_validate(tmp_path, data, segmenter):
    """Fault: other figures for the same masks: another frame, reference, spacing or tolerance."""
    own = validate(segmenter, data, tmp_path / "own")["external"]
    predict(segmenter, [tmp_path / "data" / "images"], tmp_path / "masks", read_options(data))
    found = measure([str(tmp_path / "masks" / "{id}_mask.png")], data, tmp_path / "found")[
        "external"
    ]
    # What only predict knows, and its masks of the sides, which these references lack.
    assert own.keys() - found.keys() == {"accepted"}
    assert {key: found[key] for key in found if key != "masks"} == {
        key: own[key] for key in found if key != "masks"
    }
    columns = [field.name for field in dataclasses.fields(ExternalMetrics)]
    for row, other in zip(table(tmp_path / "found"), table(tmp_path / "own"), strict=True):
        assert row.keys() <= {*columns}
        assert row == {key: other[key] for key in row}
    for name in ("best", "median", "worst"):
        first, second = (
            np.asarray(Image.open(tmp_path / each / "overlays" / f"{name}.png"))
            for each in ("own", "found")
        )
        np.testing.assert_array_equal(first, second)


def test_two_programs_are_compared(tmp_path, data, copies, capsys):
    """Fault: what is measured here cannot be compared with what validate measured."""
    worse = tmp_path / "worse"
    worse.mkdir()
    for path in (tmp_path / "masks").iterdir():
        mask = np.asarray(Image.open(path)) > 127
        # A third of the lungs' rows is missed, and marked with 1.
        rows = np.flatnonzero(mask.any(axis=1))
        mask[rows[: len(rows) // 3]] = False
        (worse / path.name).write_bytes(png_bytes(mask.astype(np.uint8)))
    given = [f"--config.data.manual_dir={data.manual_dir}"]
    for name, predicted in (("a", copies), ("b", str(worse / "{id}.png"))):
        output = tmp_path / "out" / name
        assert main(["measure", *given, f"--predicted={predicted}", f"--output={output}"]) == 0
    first, second = (
        json.loads((tmp_path / "out" / name / "metrics.json").read_text())["external"]
        for name in "ab"
    )
    assert (first["dice"], first["hd95_percent"], first["num_examples"]) == (1, 0, 6)
    assert second["precision"] == 1
    assert 0.6 < second["recall"] < 0.9
    note = json.loads((tmp_path / "out" / "b" / "validation.json").read_text())
    assert note["masks"] == [str(worse / "{id}.png")]
    assert note["data"]["manual_dir"] == data.manual_dir
    capsys.readouterr()
    folders = [str(tmp_path / "out" / name) for name in "ab"]
    assert compare.main(["compare", *folders, "--split=external"]) == 0
    assert f"{second['dice'] - 1:+.4f}" in capsys.readouterr().out


def test_an_empty_mask_counts(tmp_path, data, copies):
    """Fault: images on which a program finds nothing left out of its mean."""
    (tmp_path / "masks" / "3.png").write_bytes(png_bytes(np.zeros((123, 110), np.uint8)))
    found = measure([copies], data, tmp_path / "out")["external"]
    assert found["num_empty_predictions"] == 1
    # Fault: the letters of a single pattern taken for many patterns.
    assert measure(copies, data, tmp_path / "out")["external"] == found
    assert found["dice"] == pytest.approx(5 / 6)
    (row,) = (row for row in table(tmp_path / "out") if row["id"] == "3")
    assert float(row["hd95_px"]) == pytest.approx(math.hypot(123, 110))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "No such file or directory; make a mask of each image, empty if"),
        (b"no mask", "neither PNG, GIF nor DICOM SEG"),
        (png_bytes(chest(60, 55, 0)[1]), "60 x 55 pixels, its image 121 x 110"),
    ],
)
def test_an_image_is_never_left_out_for_its_mask(tmp_path, data, copies, content, fault):
    """Fault: a program's failures, left out as bad images are, improve its mean."""
    path = tmp_path / "masks" / "1.png"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    skipping = dataclasses.replace(data, on_error="skip", max_bad_share=1.0)
    with pytest.raises(DataError, match=rf"1\.png: .*{fault}"):
        measure([copies], skipping, tmp_path / "out")
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_a_mask_that_is_absent_ends_the_command_at_once(tmp_path, data, copies, monkeypatch):
    """Fault: an hour of measurements lost at the last image."""
    (tmp_path / "masks" / "5.png").unlink()
    monkeypatch.setattr("lungseg_jax.external.collect", None)
    with pytest.raises(DataError, match=r"5\.png: .*make a mask of each image"):
        measure([copies], data, tmp_path / "out")


def test_bad_images_are_left_out_only_if_asked(tmp_path, data, copies):
    """Fault: figures of a part of the images, published as those of all."""
    (tmp_path / "data" / "images" / "2.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"2\.png: .*neither DICOM, PNG nor JPEG"):
        measure([copies], data, tmp_path / "out")
    skipping = dataclasses.replace(data, on_error="skip", max_bad_share=0.2)
    found = measure([copies], skipping, tmp_path / "out")["external"]
    assert (found["num_examples"], found["num_left_out"]) == (5, 1)


def test_an_empty_mask_tells_no_sides_that_the_program_does_not_tell(tmp_path):
    """Fault: a Dice of each lung of a program that finds both as one, from its failures alone."""
    for name in ("images", "masks", "one", "both"):
        (tmp_path / name).mkdir()
    for number in range(4):
        pixels, mask = chest(130, 120, number)
        image = tmp_path / "images" / f"{number}.dcm"
        image.write_bytes(dicom_bytes(pixels, STUDY | {"SOPInstanceUID": f"1.2.3.{number}"}))
        inside, is_right = mask > 127, np.arange(120) < 60
        content = encode_dicom_seg(
            image, inside & is_right, inside & ~is_right, ReadOptions(), ("x",)
        )
        (tmp_path / "masks" / f"{number}_seg.dcm").write_bytes(content)
        found = inside & (number > 0)
        (tmp_path / "one" / f"{number}.png").write_bytes(png_bytes(found.astype(np.uint8)))
        content = encode_dicom_seg(
            image, found & is_right, found & ~is_right, ReadOptions(), ("y",)
        )
        (tmp_path / "both" / f"{number}.dcm").write_bytes(content)
    data = DataConfig(source="folder", manual_dir=str(tmp_path))
    one = measure([str(tmp_path / "one" / "{id}.png")], data, tmp_path / "out")["external"]
    assert "dice_right" not in one
    assert "dice_right" not in table(tmp_path / "out")[0]
    # Where it tells them, its failure counts for both.
    both = measure([str(tmp_path / "both" / "{id}.dcm")], data, tmp_path / "out")["external"]
    assert one["dice"] == both["dice"] == both["dice_right"] == both["dice_left"] == 0.75


def test_figures_of_the_other_command_stay(tmp_path, data, copies, segmenter):
    """Fault: hours of validation replaced for a mistyped folder."""
    for _ in range(2):
        measure([copies], data, tmp_path / "measured")
        validate(segmenter, data, tmp_path / "validated")
    with pytest.raises(DataError, match=r"holds figures of lungseg_jax\.validate; give another"):
        measure([copies], data, tmp_path / "validated")
    with pytest.raises(DataError, match=r"holds figures of lungseg_jax\.measure; give another"):
        validate(segmenter, data, tmp_path / "measured")


def test_images_that_are_left_out_need_no_mask(tmp_path, data, copies, capsys):
    """Fault: masks asked for of lateral images, which no program is measured on."""
    lateral = dicom_bytes(chest(120, 110, 0)[0], {"ViewPosition": "LL"})
    (tmp_path / "data" / "images" / "0.png").write_bytes(lateral)
    (tmp_path / "masks" / "0.png").unlink()
    found = measure([copies], data, tmp_path / "out")["external"]
    assert (found["num_examples"], found["num_left_out"]) == (5, 1)
    assert "1 of 6 masks are absent, such as" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("predicted", "said"),
    [
        (["masks/*.png"], r"write \{id\} for"),
        (
            ["left/{id}_1.png", "left/{id}_2.png"],
            "given 2 times; give it once, or twice, with left",
        ),
        (["a/left_of_right/{id}.png", "a/both/{id}.png"], "given 2 times"),
        (["a/right/{id}.png", "a/left/{id}.png", "a/b/{id}.png"], "given 3 times"),
    ],
)
def test_patterns_that_do_not_tell_masks_apart_are_refused(tmp_path, data, predicted, said: str):
    """Fault: one mask for all images, or for both lungs the mask of one."""
    with pytest.raises(ConfigError, match=said):
        measure(predicted, data, tmp_path / "out")


def test_each_image_may_have_a_folder(tmp_path, data, capsys):
    """Fault: the layout of programs that write several files for a case."""
    for path in (tmp_path / "data" / "masks").iterdir():
        (tmp_path / "cases" / path.stem).mkdir(parents=True)
        shutil.copy(path, tmp_path / "cases" / path.stem)
    found = measure([str(tmp_path / "cases" / "{id}" / "{id}.png")], data, tmp_path / "out")
    assert found["external"]["dice"] == 1
    # Fault: a network measured against its own masks.
    assert "6 of 6 masks are their references to the pixel" in capsys.readouterr().err


@pytest.mark.parametrize("swapped", [False, True])
def test_sides_are_told_where_both_masks_tell_them(tmp_path, swapped: bool):
    """Fault: a program that takes the right lung for the left, with a perfect Dice."""
    for name in ("images", "masks", "found"):
        (tmp_path / name).mkdir()
    pixels, mask = chest(130, 120, 0)
    inside, is_right = mask > 127, np.arange(120) < 60
    image = tmp_path / "images" / "0.dcm"
    image.write_bytes(dicom_bytes(pixels, STUDY))
    right, left = inside & is_right, inside & ~is_right
    for folder, sides in (
        ("masks", (right, left)),
        ("found", (left, right) if swapped else (right, left)),
    ):
        content = encode_dicom_seg(image, *sides, ReadOptions(), ("x",))
        (tmp_path / folder / "0_seg.dcm").write_bytes(content)
    data = DataConfig(source="folder", manual_dir=str(tmp_path))
    measure([str(tmp_path / "found" / "{id}_seg.dcm")], data, tmp_path / "out")
    with (tmp_path / "out" / "eval" / "external.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    expected = 0 if swapped else 1
    assert float(row["dice"]) == 1
    assert (float(row["dice_right"]), float(row["dice_left"])) == (expected, expected)
    # A mask of each lung tells the sides, too.
    for name, side in (("right", right), ("left", left)):
        (tmp_path / "found" / f"{name}_0.png").write_bytes(png_bytes(side.astype(np.uint8)))
    of_each = [str(tmp_path / "found" / f"{name}_{{id}}.png") for name in ("right", "left")]
    measure(of_each[::-1] if swapped else of_each, data, tmp_path / "out")
    (row,) = table(tmp_path / "out")
    assert [float(row[name]) for name in ("dice", "dice_right", "dice_left")] == [1, 1, 1]
    # A mask of both lungs is measured as one.
    (tmp_path / "found" / "0.png").write_bytes(png_bytes(mask))
    measure([str(tmp_path / "found" / "{id}.png")], data, tmp_path / "out")
    (row,) = table(tmp_path / "out")
    assert float(row["dice"]) == 1
    assert "dice_right" not in row
