"""Files in, masks out: nothing lost, nothing stopped, every name its own."""

import concurrent.futures
import dataclasses
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pydicom
import pytest

from lungseg_jax import predict as predict_module
from lungseg_jax.command_line import parse_prediction
from lungseg_jax.errors import DataError
from lungseg_jax.find_weights import PACKAGED, find_weights
from lungseg_jax.imaging.files import read_radiograph
from lungseg_jax.imaging.overlay import PREDICTION_COLOURS, draw_overlay, with_words
from lungseg_jax.imaging.radiograph import ReadOptions
from lungseg_jax.predict import main, packaged_segmenter, predict, segment
from lungseg_jax.prediction.made_with import MADE_WITH
from lungseg_jax.prediction.results import NOTE, Extra, overlay_of
from lungseg_jax.prediction.segmenter import Segmenter
from lungseg_jax.prediction.table import TABLE
from lungseg_jax.runtime.alone import LOCK
from lungseg_jax.weights import Calibration, load_weights, save_weights
from tests.deadly_reading import read_or_die
from tests.images import SHARED, chest, dicom_bytes, png_bytes
from tests.small import REPOSITORY
from tests.untrained import CHEST, table, touch, untrained_weights
from tfds_builder.phantom import generate_phantom


def test_every_file_has_its_row_and_every_image_its_mask(tmp_path, untrained):
    """Fault: a bad file that stops the rest, rows in another order, a mask of another's size."""
    images = tmp_path / "archive"
    (images / "below").mkdir(parents=True)
    sizes = {}
    for number in range(7):
        sizes[f"{number}.png"] = (120 + number, 110)
        pixels = chest(120 + number, 110, number)[0]
        (images / f"{number}.png").write_bytes(png_bytes(pixels))
    (images / "3.png").write_bytes(b"<html>")
    (images / "5.png").write_bytes(png_bytes(CHEST)[:500])
    (images / "below" / "scan.dcm").write_bytes(dicom_bytes(CHEST))
    (images / "small.png").write_bytes(png_bytes(chest(80, 80, 0)[0]))
    (images / ".hidden.png").write_bytes(b"")
    rows = predict(untrained, [images], tmp_path / "out")
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
    (small,) = (row for row in written if row["file"] == "small.png")
    assert "too small: 80 x 80 pixels" in small["reason"]


def test_a_file_that_kills_its_reader_is_one_rejected_row(tmp_path, untrained, monkeypatch):
    """Fault: a decoder's crash takes the whole run with it."""
    monkeypatch.setattr(predict_module, "read_network_input", read_or_die)
    for name in ("good.png", "deadly.png"):
        (tmp_path / name).write_bytes(png_bytes(CHEST))
    rows = predict(untrained, [tmp_path], tmp_path / "out")
    assert [bool(row.mask) for row in rows] == [False, True]
    assert "SIGSEGV" in rows[0].reason


def test_what_is_no_file_is_a_rejected_row(tmp_path, untrained):
    """Fault: a minute of waiting for a pipe's writer; one closed folder that stops an archive."""
    (tmp_path / "good.png").write_bytes(png_bytes(CHEST))
    os.mkfifo(tmp_path / "pipe.dcm")
    (tmp_path / "gone.dcm").symlink_to(tmp_path / "nowhere")
    rows = predict(untrained, [tmp_path], tmp_path / "out")
    assert {row.file: row.reason for row in rows if not row.mask} == {
        "gone.dcm": "No such file or directory",
        "pipe.dcm": "a pipe or a device, not a file",
    }


def test_one_image_is_the_same_alone_and_among_others(tmp_path, untrained):
    """Fault: images that change places within a batch, or padding that leaks into it."""
    paths = []
    for number in range(6):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(png_bytes(chest(120, 100 + 5 * number, number)[0]))
    together = predict(untrained, paths, tmp_path / "together")
    for path, row in zip(paths, together, strict=True):
        alone = untrained.segment(path)
        assert row.estimated_dice == pytest.approx(alone.estimated_dice, abs=2e-4)
        assert (row.height, row.width) == alone.mask.shape


def test_several_checkpoints_are_taken_from_the_command_line():
    """Fault: the last one alone."""
    given = parse_prediction(["predict", "a.png", "--output=o", "--checkpoint=x", "--checkpoint=y"])
    assert given.checkpoints == ["x", "y"]
    assert parse_prediction(["predict", "a.png", "--output=o"]).checkpoints == []


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch, untrained):
    """Fault: a file that is not found from Python, or masks in a folder that is called ~."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "1.png").write_bytes(png_bytes(CHEST))
    (row,) = predict(untrained, ["~/1.png"], "~/out")
    assert (tmp_path / "out" / row.mask).exists()


@pytest.mark.parametrize(
    ("path", "output"),
    [("gs://bucket/a.png", "out"), ("a.png", "gs://bucket/masks"), ("a.png", "/gs/bucket/masks")],
)
def test_addresses_are_refused(untrained, path, output):
    """Fault: masks in a folder named `gs:`, or a bucket's name looked for on the disk."""
    with pytest.raises(DataError, match=r"gs:?/+bucket/.*: is not on disk"):
        predict(untrained, [path], output)


@pytest.mark.parametrize("both_ways", [False, True])
def test_the_command_takes_all_networks_and_both_ways(tmp_path, both_ways: bool):
    """Fault: an option that is read and then forgotten."""
    (tmp_path / "a.png").write_bytes(png_bytes(CHEST))
    members, arguments = [], ["predict", str(tmp_path / "a.png"), f"--output={tmp_path / 'out'}"]
    options = ReadOptions(frontal_only=False)
    for seed in range(2):
        weights = untrained_weights(Calibration(), seed=seed)
        # Of half of the image, so that small differences show.
        threshold = float(np.median(Segmenter(weights).segment(CHEST, options).probabilities))
        path = tmp_path / f"{seed}.safetensors"
        save_weights(path, dataclasses.replace(weights, calibration=Calibration(threshold)))
        members.append(load_weights(path))
        arguments.append(f"--checkpoint={path}")
    assert main([*arguments, *["--both_ways"] * both_ways]) == 0
    found = cv2.imread(str(tmp_path / "out" / "a_mask.png"), cv2.IMREAD_UNCHANGED)
    masks = {
        (count, way): Segmenter(*members[:count], both_ways=way).segment(CHEST, options).mask
        for count in (1, 2)
        for way in (False, True)
    }
    alike = [given for given, mask in masks.items() if np.array_equal(found == 255, mask)]
    assert alike == [(2, both_ways)]


def test_the_command_writes_what_it_is_asked_for(tmp_path):
    """Fault: a flag that is read and then forgotten."""
    header = {"StudyInstanceUID": "1.2.4", "SeriesInstanceUID": "1.2.5"}
    phantom = generate_phantom(5, 4).image
    (tmp_path / "a.dcm").write_bytes(dicom_bytes((phantom * 4095).astype(np.uint16), header))
    given = ["predict", str(tmp_path / "a.dcm"), f"--output={tmp_path / 'out'}"]
    usual = {"a_mask.png", "a_overlay.png", TABLE, MADE_WITH, NOTE, LOCK}
    assert main(given) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == usual
    assert main([*given, "--sides", "--probabilities", "--dicom_seg"]) == 0
    more = {"a_right.png", "a_left.png", "a_probabilities.png", "a_seg.dcm"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == usual | more


def test_a_file_name_that_is_not_valid_text_has_its_row(tmp_path, untrained):
    """Fault: a name in an old encoding that loses the table of a whole archive."""
    path = os.fsencode(tmp_path) + b"/r\xe9sum\xe9.png"
    Path(os.fsdecode(path)).write_bytes(png_bytes(CHEST))
    predict(untrained, [tmp_path], tmp_path / "out")
    (row,) = table(tmp_path / "out")
    assert row["file"] == "r\\udce9sum\\udce9.png"
    assert row["mask"]


def test_control_characters_in_a_name_are_shown_as_escapes(tmp_path, capsys):
    """Fault: a file in an archive that clears the screen, or writes lines of its own."""
    (tmp_path / "\x1b[2Jx\nb.png accepted").write_text("no image")
    assert main(["predict", str(tmp_path), f"--output={tmp_path / 'out'}"]) == 1
    said = capsys.readouterr().err
    assert "\\x1b[2Jx\\x0ab.png accepted: rejected" in said
    assert "\x1b[2J" not in said
    # In the name of a mask, too.
    (tmp_path / "\x1b[2Jy.png").write_bytes(png_bytes(CHEST))
    main(["predict", str(tmp_path), f"--output={tmp_path / 'out'}"])
    assert "\x1b" not in (tmp_path / "out" / TABLE).read_text()
    assert "\\x1b[2Jy_mask.png" in (tmp_path / "out" / TABLE).read_text()


def test_every_core_reads(tmp_path, untrained, monkeypatch):
    """Fault: files read ahead by the batch, so that most of a server's cores wait."""
    together = threading.Barrier(8, timeout=30)

    def wait_for_the_others(*_) -> tuple[None, str]:
        together.wait()
        return None, "a fault"

    monkeypatch.setattr("lungseg_jax.runtime.cores.usable_cores", lambda: 8)
    monkeypatch.setattr("lungseg_jax.predict._read", wait_for_the_others)
    touch(tmp_path, *(f"{number}.png" for number in range(16)))
    assert len(predict(untrained, [tmp_path], tmp_path / "out")) == 16


def test_a_tilde_is_the_home_folder_in_python_too(tmp_path, monkeypatch, untrained):
    """Fault: a file that the README names, and that `segment` does not find."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.png").write_bytes(png_bytes(CHEST))
    expected = untrained.segment(tmp_path / "a.png").probabilities
    np.testing.assert_array_equal(untrained.segment("~/a.png").probabilities, expected)


def test_rows_of_unequal_length_are_refused():
    """Fault: NumPy's own exception, which no caller waits for."""
    with pytest.raises(DataError, match=r"array: .*inhomogeneous"):
        segment([[1, 2], [3]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output=out"], "no file is given"),
        (["a.png"], "--output: is missing"),
        (["absent.png", "--output=out"], "absent.png: no such file or folder"),
        (["a.png", "--output=a.png"], "a.png: is a file or inside one; give another folder"),
        (
            ["a.png", "--output=a.png/out"],
            "a.png/out: is a file or inside one;",
        ),
        (["a.png", "--output=out", "--config.data.frontal=1"], "data.frontal_only"),
        (["a.png", "--output=out", "--config.num_steps=5"], "num_steps"),
        (["a.png", "--output=out", "--checkpoint=x.safetensors"], "x.safetensors: No such file"),
        (
            ["a.png", "--output=out", "--checkpoint=absent"],
            "absent: no such file or folder; give",
        ),
        (["a.png", "--output=out", "--checkpoint=a.png"], "a.png: is a file, but neither"),
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


@pytest.mark.parametrize(("names", "code"), [(["a.txt"], 1), (["a.txt", "a.png"], 0)])
def test_a_call_without_a_mask_has_failed(tmp_path, capsys, names, code):
    """Fault: exit code 0 for the wrong folder, or another for one odd file in an archive."""
    (tmp_path / "a.txt").write_text("no image")
    (tmp_path / "a.png").write_bytes(png_bytes(CHEST))
    save_weights(tmp_path / "own.safetensors", untrained_weights(Calibration(0.1, -1.0, 1.0)))
    paths = [str(tmp_path / name) for name in names]
    output, checkpoint = tmp_path / "out", f"--checkpoint={tmp_path / 'own.safetensors'}"
    assert main(["predict", *paths, f"--output={output}", checkpoint]) == code
    said = capsys.readouterr().err
    assert "a.txt: rejected" in said
    assert ("predictions.csv: no file could be segmented" in said) == (code == 1)
    assert len((output / "predictions.csv").read_text().splitlines()) == 1 + len(names)


@pytest.mark.parametrize(
    "calibration", [Calibration(0.1), Calibration(0.1, -1.0, 1.0)], ids=["none", "some"]
)
def test_estimates_that_are_not_calibrated_are_said_to_be(tmp_path, capsys, calibration):
    """Fault: masks rejected as uncertain by a figure that was never checked against Dice."""
    (tmp_path / "a.png").write_bytes(png_bytes(CHEST))
    save_weights(tmp_path / "own.safetensors", untrained_weights(calibration))
    checkpoint = f"--checkpoint={tmp_path / 'own.safetensors'}"
    assert (
        main(["predict", str(tmp_path / "a.png"), f"--output={tmp_path / 'out'}", checkpoint]) == 0
    )
    said = "not calibrated" in capsys.readouterr().err
    assert said == (calibration.slope is None)


def read_png(path: Path) -> np.ndarray:
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels


@pytest.mark.parametrize(
    ("calibrated", "good", "said"),
    [
        (True, True, "accepted, estimated Dice {row.estimated_dice:.3f}"),
        (False, True, "accepted"),
        (True, False, "rejected: {row.reason}"),
    ],
)
def test_an_overlay_says_what_became_of_the_file(tmp_path, calibrated, good, said):
    """Fault: a rejected mask that looks accepted, or an estimate that means nothing."""
    pixels = generate_phantom(5, 4).image if good else np.tile(CHEST, (5, 5))
    pixels = np.rint(pixels / pixels.max() * 255).astype(np.uint8)
    (tmp_path / "a.png").write_bytes(png_bytes(pixels))
    weights = find_weights(PACKAGED)
    if not calibrated:
        weights = dataclasses.replace(weights, calibration=Calibration())
    (row,) = predict(Segmenter(weights), [tmp_path / "a.png"], tmp_path / "out")
    image = read_radiograph(tmp_path / "a.png").pixels
    lungs = Segmenter(weights).segment(tmp_path / "a.png")
    outlined = draw_overlay(image, np.stack([lungs.right, lungs.left], axis=-1))
    words = "; ".join(filter(None, [said.format(row=row), row.notes]))
    expected = with_words(outlined, words, sides=True, reference=False)
    overlay = cv2.imread(str(tmp_path / "out" / "a_overlay.png"), cv2.IMREAD_COLOR_RGB)
    assert overlay is not None
    np.testing.assert_array_equal(overlay, expected)
    assert len(overlay) > len(outlined), "no room for words, so that nothing is tested"


def test_one_path_is_one_path(tmp_path, untrained):
    """Fault: the letters of a string taken for paths, the first of which is the root folder."""
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(CHEST))
    for given in (str(path), path):
        (row,) = predict(untrained, given, tmp_path / "out")
        assert row.file == str(path)


def test_no_path_is_refused(tmp_path, untrained):
    """Fault: a pattern that matches no file ends in an index error."""
    with pytest.raises(DataError, match="paths: none is given"):
        predict(untrained, [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_threads_share_the_packaged_network():
    """Fault: a service's first requests, coming at once, each load and compile a network."""
    predict_module._packaged_segmenter.cache_clear()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = [pool.submit(packaged_segmenter) for _ in range(4)]
        assert len({one.result() for one in found}) == 1


def test_the_packaged_network_finds_the_lungs_of_a_turned_phantom(tmp_path):
    """Fault: weights that do not belong to the code; the mask of a turned image upright."""
    phantom = generate_phantom(5, 4)
    pixels = np.rint(phantom.image * 4095).astype(np.uint16)
    turned = {
        "BitsStored": 12, "HighBit": 11, "PatientOrientation": ["L", "H"],
        "ImagerPixelSpacing": ["0.5", "0.8"],
        "StudyInstanceUID": "1.2.4", "SeriesInstanceUID": "1.2.5",
    }  # fmt: skip
    path = tmp_path / "turned.dcm"
    path.write_bytes(dicom_bytes(pixels[::-1].copy(), turned))
    (row,) = predict(packaged_segmenter(), [path], tmp_path / "out", extras=get_args(Extra))
    assert row.status == "accepted"
    mask = read_png(tmp_path / "out" / row.mask)
    found = segment(path)
    np.testing.assert_array_equal(mask == 255, found.mask)
    for lung, truth in ((found.right, phantom.right_lung), (found.left, phantom.left_lung)):
        stored = truth[::-1]
        assert 2 * (lung & stored).sum() / (lung.sum() + stored.sum()) > 0.93
    sides = {"right": found.right, "left": found.left}
    frames = pydicom.dcmread(tmp_path / "out" / row.dicom_seg).pixel_array
    np.testing.assert_array_equal(frames == 1, np.stack(list(sides.values())))
    for side, lung in sides.items():
        written = read_png(tmp_path / "out" / f"turned_{side}.png")
        np.testing.assert_array_equal(written == 255, lung)
    probabilities = read_png(tmp_path / "out" / "turned_probabilities.png") / 65535
    np.testing.assert_allclose(probabilities, found.probabilities, atol=1 / 65535)
    areas = [np.count_nonzero(side) for side in sides.values()]
    assert [row.right_px, row.left_px] == areas
    assert [row.right_cm2, row.left_cm2] == pytest.approx(
        [0.05 * 0.08 * x for x in areas], abs=0.01
    )
    assert row.right_cm2 > row.left_cm2 + 1, "lungs that do not differ"
    # Outlines, in magenta and orange, lie at the lungs of these names; the overlay is upright.
    overlay = cv2.imread(str(tmp_path / "out" / overlay_of(row.mask)), cv2.IMREAD_COLOR_RGB)
    assert overlay is not None
    for mask, colour in zip(sides.values(), PREDICTION_COLOURS, strict=True):
        drawn = (overlay == colour).all(axis=-1)[: len(mask)]
        rim = cv2.dilate(mask[::-1].astype(np.uint8), np.ones((5, 5))) > 0
        assert drawn.sum() > 100
        assert (drawn & rim).sum() > 0.99 * drawn.sum()


REAL = SHARED / "dicom"


@pytest.mark.skipif(not REAL.is_dir(), reason="no real DICOM files in ../shared/data/dicom")
@pytest.mark.parametrize("flags", [[], ["--both_ways"]])
def test_real_dicom_files_by_the_command(tmp_path, flags):
    """Fault: a hip segmented, a chest refused, lungs of the wrong size or side without a word."""
    told = subprocess.run(
        [sys.executable, "-m", "lungseg_jax.predict", REAL, f"--output={tmp_path}", *flags],
        cwd=REPOSITORY,
        check=True,
        stderr=subprocess.PIPE,
        text=True,
    ).stderr
    assert "; 1 perhaps mirrored: check right and left" in told
    rows = table(tmp_path)
    assert len(rows) == len(list(REAL.iterdir()))
    for row in rows:
        assert (row["status"] == "accepted") == row["file"].startswith("chest_"), row
        if row["status"] == "accepted":
            # Its heart and the gas in its stomach lie on the viewer's left.
            is_mirrored = row["file"] == "chest_cr_mono1_8bit_jpeg_baseline.dcm"
            assert ("mirrored" in row["notes"]) == is_mirrored
            assert float(row["estimated_dice"]) > 0.9
