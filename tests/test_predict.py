"""Files in, masks out: nothing lost, nothing stopped, every name its own."""

import csv
import os
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from etils import epath

from lungseg_jax.errors import DataError
from lungseg_jax.predict import main, predict, segment
from lungseg_jax.prediction_inputs import name_files
from lungseg_jax.prediction_table import TABLE
from lungseg_jax.segmenter import Segmenter
from lungseg_jax.state import make_model, split_model
from lungseg_jax.weights import Calibration, Weights
from tests.pictures import SHARED, chest, dicom_bytes, png_bytes
from tests.small import REPOSITORY, small_config
from tests.test_sandbox import kill_readers
from tfds_builder.phantom import generate_phantom

CHEST = chest(120, 110, 0)[0]


@pytest.fixture(scope="module")
def untrained() -> Segmenter:
    config = small_config()
    _, *variables = split_model(make_model(config))
    return Segmenter(Weights(config, tuple(jax.device_get(variables)), Calibration(0.0)))


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / TABLE).open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_file_has_its_row_and_every_picture_its_mask(tmp_path, untrained):
    """Fault: a bad file that stops the rest, rows in another order, a mask of another's size."""
    pictures = tmp_path / "pictures"
    (pictures / "below").mkdir(parents=True)
    sizes = {}
    for number in range(7):
        sizes[f"{number}.png"] = (120 + number, 110)
        pixels = chest(120 + number, 110, number)[0]
        (pictures / f"{number}.png").write_bytes(png_bytes(pixels))
    (pictures / "3.png").write_bytes(b"<html>")
    (pictures / "5.png").write_bytes(png_bytes(CHEST)[:500])
    (pictures / "below" / "scan.dcm").write_bytes(dicom_bytes(CHEST))
    (pictures / "small.png").write_bytes(png_bytes(chest(80, 80, 0)[0]))
    (pictures / ".hidden.png").write_bytes(b"")
    rows = predict(untrained, [pictures], tmp_path / "out")
    written = table(tmp_path / "out")
    assert [row["file"] for row in written] == [row.file for row in rows]
    assert sorted(row.file for row in rows) == sorted(
        [*(f"{number}.png" for number in range(7)), "below/scan.dcm", "small.png"]
    )
    for row in written:
        if row["file"] in ("3.png", "5.png", "small.png"):
            assert row["status"] == "rejected"
            assert row["reason"]
            assert row["mask"] == ""
        else:
            mask = cv2.imread(str(tmp_path / "out" / row["mask"]), cv2.IMREAD_UNCHANGED)
            assert mask is not None
            assert mask.shape == sizes.get(row["file"], CHEST.shape)
            assert set(np.unique(mask)) <= {0, 255}
            overlay = Path(row["mask"]).stem.removesuffix("_mask") + "_overlay.png"
            assert (tmp_path / "out" / overlay).exists()
    assert "too small: 80 pixels" in next(r["reason"] for r in written if r["file"] == "small.png")


def test_a_file_that_kills_its_reader_is_one_rejected_row(tmp_path, untrained):
    """Fault: a decoder's crash takes the whole run with it."""
    good, deadly = tmp_path / "good.png", tmp_path / "deadly.png"
    good.write_bytes(png_bytes(CHEST))
    os.mkfifo(deadly)
    killer = threading.Thread(target=kill_readers, args=(deadly, 2), daemon=True)
    killer.start()
    rows = predict(untrained, [deadly, good], tmp_path / "out")
    killer.join()
    assert [bool(row.mask) for row in rows] == [False, True]
    assert "SIGSEGV" in rows[0].reason


def test_one_picture_is_the_same_alone_and_among_others(tmp_path, untrained):
    """Fault: pictures that change places within a batch, or padding that leaks into it."""
    paths = []
    for number in range(6):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(png_bytes(chest(120, 100 + 5 * number, number)[0]))
    together = predict(untrained, paths, tmp_path / "together")
    for path, row in zip(paths, together, strict=True):
        alone = untrained.segment(path)
        assert row.estimated_dice == pytest.approx(alone.estimated_dice, abs=2e-4)
        assert (row.height, row.width) == alone.mask.shape


def test_both_ways_is_symmetric(untrained):
    """Fault: the mirrored prediction not mirrored back."""
    both = Segmenter(untrained._weights, both_ways=True)
    square = (np.random.default_rng(0).random((32, 32, 1)) * 65535).astype(np.uint16)
    (as_is,), (mirrored,) = both.predict([square]), both.predict([square[:, ::-1]])
    np.testing.assert_allclose(mirrored, as_is[:, ::-1], atol=1e-5)


def test_names_do_not_collide(tmp_path):
    """Fault: the mask of one patient over that of another whose file has the same name."""
    for name in ("a/1.png", "b/1.png", "b/1.dcm", "b_1.png", "1.2.840.113", "c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    named = name_files([tmp_path], epath.Path(tmp_path / "out"))
    assert len({one.name for one in named}) == len(named) == 6
    names = {one.label: one.name for one in named}
    assert names["c.png"] == "c"
    assert names["1.2.840.113"] == "1.2.840.113"
    assert names["a/1.png"] == "a_1.png"


def test_results_of_an_earlier_call_are_no_pictures(tmp_path, untrained):
    """Fault: masks segmented as if they were chests, because results go below the pictures."""
    (tmp_path / "1.png").write_bytes(png_bytes(CHEST))
    for _ in range(2):
        rows = predict(untrained, [tmp_path], tmp_path / "out")
        assert [row.file for row in rows] == ["1.png"]


def test_nothing_to_do_is_an_error(tmp_path):
    """Fault: a mistyped folder ends with exit code 0."""
    with pytest.raises(DataError, match="no such file or folder"):
        name_files([tmp_path / "absent"], epath.Path(tmp_path))
    with pytest.raises(DataError, match="holds no file"):
        name_files([tmp_path], epath.Path(tmp_path / "out"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output=out"], "no file is given"),
        (["a.png"], "--output: is missing"),
        (["absent.png", "--output=out"], "absent.png: no such file or folder"),
        (["a.png", "--output=out", "--config.data.frontal=1"], "frontal"),
        (["a.png", "--output=out", "--checkpoint=absent"], "absent: holds no run"),
    ],
)
def test_user_errors_are_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    """Fault: a traceback, or exit code 0, for a typing error."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(png_bytes(CHEST))
    assert main(["predict", *arguments]) == 1
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said


def test_the_packaged_network_finds_the_lungs_of_phantoms():
    """Fault: weights and code that do not belong together."""
    for index in range(4):
        phantom = generate_phantom(11, index)
        found = segment(phantom.image.astype(np.float32))
        truth = phantom.left_lung | phantom.right_lung
        dice = 2 * (found.mask & truth).sum() / (found.mask.sum() + truth.sum())
        assert dice > 0.9
        assert found.accepted
        assert abs(found.estimated_dice - dice) < 0.06


@pytest.mark.skipif(not SHARED.exists(), reason="needs real DICOM files in ../shared/data")
def test_real_dicom_files_by_the_command(tmp_path):
    """Fault: a hip segmented, a chest refused, lungs of the wrong size or side."""
    subprocess.run(
        [sys.executable, "-m", "lungseg_jax.predict", SHARED / "dicom", f"--output={tmp_path}"],
        cwd=REPOSITORY,
        check=True,
    )
    rows = table(tmp_path)
    assert len(rows) == len(list((SHARED / "dicom").iterdir()))
    for row in rows:
        assert (row["status"] == "accepted") == row["file"].startswith("chest_"), row
        if row["status"] == "accepted":
            # Its heart and the gas in its stomach lie on the viewer's left.
            is_mirrored = row["file"] == "chest_cr_mono1_8bit_jpeg_baseline.dcm"
            assert ("mirrored" in row["notes"]) == is_mirrored
            assert float(row["estimated_dice"]) > 0.9
