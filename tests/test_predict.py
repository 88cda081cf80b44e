"""Files in, masks out: nothing lost, nothing stopped, every name its own."""

import csv
import dataclasses
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from lungseg_jax.command_line import parse_prediction
from lungseg_jax.data.labels import CHANNELS
from lungseg_jax.errors import ConfigError, DataError
from lungseg_jax.imaging.overlay import PREDICTION_COLOURS
from lungseg_jax.imaging.radiograph import Radiograph, ReadOptions
from lungseg_jax.imaging.structures import Structure
from lungseg_jax.network import make_model, split_model
from lungseg_jax.predict import Opened, _segment_all, main, packaged_segmenter, predict, segment
from lungseg_jax.prediction.inputs import name_files
from lungseg_jax.prediction.quality import estimate_dice
from lungseg_jax.prediction.results import NOTE, overlay_of
from lungseg_jax.prediction.segmenter import Segmenter
from lungseg_jax.prediction.table import TABLE, Row
from lungseg_jax.weights import Calibration, Weights, load_weights, save_weights
from tests.pictures import SHARED, chest, dicom_bytes, png_bytes
from tests.small import REPOSITORY, small_config
from tests.test_sandbox import kill_readers
from tfds_builder.phantom import generate_phantom

CHEST = chest(120, 110, 0)[0]


def untrained_weights(calibration: Calibration, **changes) -> Weights:
    config = small_config(**changes)
    _, *variables = split_model(make_model(config))
    return Weights(config, tuple(jax.device_get(variables)), calibration)


@pytest.fixture(scope="module")
def untrained() -> Segmenter:
    return Segmenter(untrained_weights(Calibration(0.0)))


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
    (small,) = (row for row in written if row["file"] == "small.png")
    assert "too small: 80 x 80 pixels" in small["reason"]


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


@pytest.mark.parametrize("change", [lambda x: x / 65535, lambda x: x[..., 0], np.float32])
def test_what_is_no_network_input_is_refused(untrained, change):
    """Fault: intensities in [0, 1] divided by 65535 again, and a mask of a black picture."""
    square = np.full((32, 32, 1), 30000, np.uint16)
    assert len(untrained.predict([square])) == 1
    with pytest.raises(DataError, match=r"^square: .*; give \(32, 32, 1\) of uint16"):
        untrained.predict([change(square)])


@pytest.mark.parametrize("labels", ["lungs", "left_right"])
def test_probabilities_are_those_of_the_network_in_the_pictures_frame(labels: str):
    """Fault: classes merged, smoothed, or left in the model's square; another network loaded."""
    weights = untrained_weights(Calibration(), data__labels=labels, data__image_size=96)
    # At the square's own size nothing is resized.
    picture = np.float32(chest(96, 96, 0)[0]) / 255
    segmenter, options = Segmenter(weights), ReadOptions(frontal_only=False)
    found = segmenter.probabilities(picture, options)
    (logits,) = weights.network()(jnp.asarray(picture[None, :, :, None]), train=False)
    assert np.ptp(logits) > 0.1, "a picture that shows nothing"
    np.testing.assert_allclose(found, jax.nn.sigmoid(logits), atol=1e-4)
    assert segmenter.probabilities(CHEST, options).shape == (*CHEST.shape, logits.shape[-1])


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


def test_several_checkpoints_are_taken_from_the_command_line():
    """Fault: the last one alone."""
    given = parse_prediction(["predict", "a.png", "--output=o", "--checkpoint=x", "--checkpoint=y"])
    assert given.checkpoints == ["x", "y"]
    assert parse_prediction(["predict", "a.png", "--output=o"]).checkpoints == []


@pytest.mark.parametrize(
    ("path", "output"), [("gs://bucket/a.png", "out"), ("a.png", "gs://bucket/masks")]
)
def test_addresses_are_refused(untrained, path, output):
    """Fault: masks in a folder named `gs:`, or a bucket's name looked for on the disk."""
    with pytest.raises(ConfigError, match=r"gs://bucket/.*: is not on disk"):
        predict(untrained, [path], output)


@pytest.mark.parametrize("both_ways", [False, True])
def test_the_command_takes_all_networks_and_both_ways(tmp_path, both_ways: bool):
    """Fault: an option that is read and then forgotten."""
    (tmp_path / "a.png").write_bytes(png_bytes(CHEST))
    members, arguments = [], ["predict", str(tmp_path / "a.png"), f"--output={tmp_path / 'out'}"]
    options = ReadOptions(frontal_only=False)
    for seed in range(2):
        weights = untrained_weights(Calibration(), seed=seed)
        # Of half of the picture, so that small differences show.
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


def test_networks_of_different_image_sizes_are_refused():
    """Fault: arrays of two sizes added, or one network's picture shown to the other."""
    members = [untrained_weights(Calibration(), data__image_size=size) for size in (32, 64)]
    with pytest.raises(ConfigError, match="image_size"):
        Segmenter(*members)


def test_both_ways_is_symmetric():
    """Fault: the mirrored prediction not mirrored back."""
    both = Segmenter(untrained_weights(Calibration(0.0)), both_ways=True)
    square = (np.random.default_rng(0).random((32, 32, 1)) * 65535).astype(np.uint16)
    (as_is,), (mirrored,) = both.predict([square]), both.predict([square[:, ::-1]])
    np.testing.assert_allclose(mirrored.square, as_is.square[:, ::-1], atol=1e-5)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_names_do_not_collide(tmp_path):
    """Fault: the mask of one patient over that of another whose file has the same name."""
    touch(tmp_path, "a/1.png", "b/1.png", "b/1.dcm", "b_1.png", "1.2.840.113", "c.png")
    named = name_files([tmp_path], epath.Path(tmp_path / "out"), ())
    assert len({one.name for one in named}) == len(named) == 6
    names = {one.label: one.name for one in named}
    assert names["c.png"] == "c"
    assert names["1.2.840.113"] == "1.2.840.113"
    assert names["a/1.png"] == "a_1.png"


def test_names_and_labels_of_several_folders_do_not_collide(tmp_path):
    """Fault: two rows of the table that say the same, or a number that another file's name has."""
    touch(tmp_path, "a/1.png", "a/scan", "a/scan-2", "b/1.png", "b/scan", "a_scan")
    named = name_files(
        [tmp_path / "a", tmp_path / "b", tmp_path / "a_scan"], epath.Path(tmp_path / "out"), {}
    )
    assert len({one.name for one in named}) == len({one.label for one in named}) == 6


def test_folders_of_one_name_are_told_apart(tmp_path):
    """Fault: rows of two patients that both say images/1.png."""
    touch(tmp_path, "p1/images/1.png", "p2/images/1.png", "p2/images/2.png")
    folders = [tmp_path / "p1" / "images", tmp_path / "p2" / "images"]
    named = name_files(folders, epath.Path(tmp_path / "out"), ())
    assert {one.label: one.name for one in named} == {
        "p1/images/1.png": "p1_images_1.png",
        "p2/images/1.png": "p2_images_1.png",
        "p2/images/2.png": "2",
    }


def test_results_of_files_above_the_working_directory_are_not_hidden(tmp_path, monkeypatch):
    """Fault: a mask named after `../1.png` that is hidden; one file given twice in two rows."""
    touch(tmp_path, "1.png", "here/1.png")
    monkeypatch.chdir(tmp_path / "here")
    given = ["../1.png", "1.png", tmp_path / "here" / "1.png"]
    named = name_files(given, epath.Path("out"), ())
    assert {one.label: one.name for one in named} == {"../1.png": "1.png", "1.png": "1.png-2"}


def test_long_names_leave_room_for_endings(tmp_path):
    """Fault: folders named by UIDs, joined to a name that no file may have, end the run."""
    folders = "/".join([".".join(["1234567"] * 8)] * 4)
    touch(tmp_path, f"{folders}/1-1.dcm", f"{folders}/x/1-1.dcm")
    for one in name_files([tmp_path], epath.Path(tmp_path / "out"), ()):
        (tmp_path / f"{one.name}_overlay.png").touch()


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
    (tmp_path / "\x1b[2Jx\nb.png accepted").write_text("no picture")
    assert main(["predict", str(tmp_path), f"--output={tmp_path / 'out'}"]) == 1
    said = capsys.readouterr().err
    assert "\\x1b[2Jx\\x0ab.png accepted: rejected" in said
    assert "\x1b[2J" not in said


@pytest.mark.parametrize("output", [".", "out"])
def test_results_of_an_earlier_call_are_no_pictures(tmp_path, untrained, output: str):
    """Fault: masks segmented as if they were chests, because results go beside the pictures."""
    (tmp_path / "1.png").write_bytes(png_bytes(CHEST))
    for _ in range(2):
        rows = predict(untrained, [tmp_path], tmp_path / output)
        assert [row.file for row in rows] == ["1.png"]
        assert (tmp_path / output / "1_mask.png").exists()


@pytest.mark.parametrize("theirs", ["1_mask.png", "1_overlay.png", TABLE])
def test_files_of_others_are_not_overwritten(tmp_path, untrained, theirs: str):
    """Fault: a radiologist's reference beside its picture lost under a mask of the network."""
    (tmp_path / "0.png").write_bytes(png_bytes(CHEST))
    (tmp_path / "1.png").write_bytes(png_bytes(CHEST))
    (tmp_path / theirs).write_bytes(b"dear")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError, match=f"{theirs}: .*; give another --output"):
        predict(untrained, [tmp_path], tmp_path)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / theirs).read_bytes() == b"dear"


def test_references_elsewhere_are_pictures_like_others(tmp_path):
    """Fault: a file left out without a word because it is called what results are."""
    touch(tmp_path, "1_mask.png")
    (one,) = name_files([tmp_path], epath.Path(tmp_path), ())
    assert one.label == "1_mask.png"


def test_results_given_by_name_are_not_segmented(tmp_path, untrained):
    """Fault: `predict x/*.png --output=x` once more takes its masks for chests."""
    (tmp_path / "1.png").write_bytes(png_bytes(CHEST))
    for _ in range(2):
        rows = predict(untrained, sorted(tmp_path.glob("*.png")), tmp_path)
        assert len(rows) == 1
    with pytest.raises(DataError, match="holds no file"):
        predict(untrained, [tmp_path / "1_mask.png"], tmp_path)


def test_a_file_without_results_keeps_none_of_an_earlier_call(tmp_path, untrained):
    """Fault: the mask of a picture that is rejected now, or under a name it had, is still there."""
    output = tmp_path / "out"
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(png_bytes(CHEST))
    predict(untrained, [tmp_path], output)
    (tmp_path / "1.png").write_bytes(b"<html>")
    predict(untrained, [tmp_path], output)
    assert {path.name for path in output.iterdir()} == {NOTE, TABLE, "2_mask.png", "2_overlay.png"}
    (tmp_path / "2.dcm").write_bytes(b"<html>")
    predict(untrained, [tmp_path], output)
    assert {path.name for path in output.glob("*.png")} == {"2.png_mask.png", "2.png_overlay.png"}


def test_a_call_that_was_stopped_starts_again(tmp_path, untrained, monkeypatch):
    """Fault: masks that no row names yet are taken for another's files, or for pictures."""
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(png_bytes(CHEST))

    def segment_all(*arguments) -> Iterator[Row]:
        assert len(list(_segment_all(*arguments))) == 2
        raise KeyboardInterrupt
        yield

    with monkeypatch.context() as patch:
        patch.setattr("lungseg_jax.predict._segment_all", segment_all)
        with pytest.raises(KeyboardInterrupt):
            predict(untrained, [tmp_path], tmp_path)
    assert not table(tmp_path)
    assert len(list(tmp_path.glob("*_mask.png"))) == 2
    assert len(predict(untrained, [tmp_path], tmp_path)) == 2
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == [NOTE]


@dataclasses.dataclass
class Folder:
    """Three pictures that were segmented, and what is known of their results."""

    root: Path
    rows: list[Row]

    @property
    def output(self) -> Path:
        return self.root / "out"

    def again(self, segmenter: Segmenter, options: ReadOptions = ReadOptions()) -> set[str]:
        """Returns which masks a second call writes, whose table must be that of the first."""
        before = {path.name: path.stat().st_ino for path in self.output.glob("*_mask.png")}
        for path in self.output.glob("*_mask.png"):
            # A new file may get the number of the one it replaces.
            kept = self.root / f"kept-{path.stat().st_ino}"
            if not kept.exists():
                os.link(path, kept)
        assert repr(predict(segmenter, [self.root / "in"], self.output, options)) == repr(self.rows)
        assert [row["file"] for row in table(self.output)] == ["1.png", "2.png", "3.png"]
        after = {path.name: path.stat().st_ino for path in self.output.glob("*_mask.png")}
        return {name for name in after if after[name] != before.get(name)}


@pytest.fixture
def segmented(tmp_path, untrained) -> Folder:
    (tmp_path / "in").mkdir()
    for name in ("1.png", "2.png", "3.png"):
        (tmp_path / "in" / name).write_bytes(png_bytes(CHEST))
    return Folder(tmp_path, predict(untrained, [tmp_path / "in"], tmp_path / "out"))


ALL = {"1_mask.png", "2_mask.png", "3_mask.png"}


def test_what_was_done_is_not_done_again(segmented, untrained):
    """Fault: an archive of a day's work begun anew, or its results gone, after an interrupt."""
    assert segmented.again(untrained) == set()
    (segmented.output / "1_mask.png").unlink()
    (segmented.output / "2_overlay.png").unlink()
    assert segmented.again(untrained) == {"1_mask.png", "2_mask.png"}
    # As a call that was killed leaves it: half a line, and no table.
    note = (segmented.output / NOTE).read_text()
    (segmented.output / NOTE).write_text(note[:-20])
    (segmented.output / TABLE).unlink()
    assert segmented.again(untrained) < ALL


def test_what_would_be_made_otherwise_is_made_again(segmented, untrained, monkeypatch):
    """Fault: an old mask beside a new picture, network, option or rule."""
    os.utime(segmented.root / "in" / "2.png", ns=(0, 0))
    assert segmented.again(untrained) == {"2_mask.png"}
    assert segmented.again(untrained, ReadOptions(correct_polarity=False)) == ALL
    other = untrained_weights(Calibration(0.0), seed=1)
    for segmenter in (Segmenter(other), Segmenter(other, both_ways=True), untrained):
        segmented.rows = predict(segmenter, [segmented.root / "in"], segmented.root / "fresh")
        assert segmented.again(segmenter) == ALL
    monkeypatch.setattr("lungseg_jax.prediction.results.digest_of_code", lambda: "another")
    assert segmented.again(untrained) == ALL


def test_every_core_reads(tmp_path, untrained, monkeypatch):
    """Fault: files read ahead by the batch, so that most of a server's cores wait."""
    together = threading.Barrier(8, timeout=30)

    def wait_for_the_others(_, file, *__) -> Opened:
        together.wait()
        return Opened(file, fault="a fault")

    monkeypatch.setattr("lungseg_jax.predict.usable_cores", lambda: 8)
    monkeypatch.setattr("lungseg_jax.predict._open", wait_for_the_others)
    touch(tmp_path, *(f"{number}.png" for number in range(16)))
    assert len(predict(untrained, [tmp_path], tmp_path / "out")) == 16


def test_calls_on_other_pictures_share_a_folder(tmp_path, untrained):
    """Fault: a loop over pictures that cannot be run twice, for the table names the last alone."""
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(png_bytes(CHEST))
    for name in ("1.png", "2.png", "1.png"):
        predict(untrained, [tmp_path / name], tmp_path)
    assert len(list(tmp_path.glob("*_mask.png"))) == 2
    assert len(predict(untrained, [tmp_path], tmp_path)) == 2


@pytest.mark.parametrize(
    "note",
    [
        '{"mask": "../dear_mask.png", "picture": "", "made_of": "", "row": null}',
        '{"mask": "1_mask.png", "row": null}',
        '{"mask": "1_mask.png", "picture": "", "made_of": "", "row": 5}',
        '["1_mask.png"]',
        "{",
        "5",
        "",
    ],
)
def test_a_note_of_others_names_no_file_elsewhere(tmp_path, untrained, note: str):
    """Fault: a note that came with a download has files outside the folder removed."""
    (tmp_path / "1.png").write_bytes(png_bytes(CHEST))
    touch(tmp_path, "dear_mask.png", "dear_overlay.png", "out/1_mask.png")
    (tmp_path / "out" / NOTE).write_text(f"{note}\n")
    with pytest.raises(DataError, match="give another --output"):
        predict(untrained, [tmp_path], tmp_path / "out")
    assert (tmp_path / "dear_mask.png").exists()
    assert (tmp_path / "dear_overlay.png").exists()


def test_the_result_of_another_picture_of_the_name_is_kept(tmp_path, untrained):
    """Fault: one patient's mask overwrites another's, in a loop over folders of studies."""
    touch(tmp_path, "study1/1.png", "study2/1.png")
    (tmp_path / "study1" / "1.png").write_bytes(png_bytes(CHEST))
    (tmp_path / "study2" / "1.png").write_bytes(png_bytes(CHEST))
    output = tmp_path / "out"
    predict(untrained, [tmp_path / "study1"], output)
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    with pytest.raises(DataError, match=r"1_mask.png: is the result of another file.*--output"):
        predict(untrained, [tmp_path / "study2"], output)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    # Fault: a name that is kept for what was removed, or never written.
    (tmp_path / "study3").mkdir()
    (tmp_path / "study3" / "1.png").write_text("no picture")
    other = tmp_path / "other"
    predict(untrained, [tmp_path / "study3"], other)
    predict(untrained, [tmp_path / "study2"], other)
    assert (other / "1_mask.png").exists()
    (tmp_path / "study3" / "1.png").unlink()
    # Given together, both have names of their own.
    assert len(predict(untrained, [tmp_path], output)) == 2
    assert len(list(output.glob("*_mask.png"))) == 2


def test_results_in_other_folders_are_not_segmented(tmp_path, untrained):
    """Fault: the masks and overlays of another call segmented, as if they were radiographs."""
    (tmp_path / "a.png").write_bytes(png_bytes(CHEST))
    predict(untrained, [tmp_path], tmp_path / "first")
    assert (tmp_path / "first" / "a_overlay.png").exists()
    assert [row.file for row in predict(untrained, [tmp_path], tmp_path / "second")] == ["a.png"]
    # A note of another program's hides nothing.
    (tmp_path / "first" / NOTE).write_text("{\n")
    assert len(predict(untrained, [tmp_path], tmp_path / "third")) == 4


def test_the_output_of_a_training_run_is_not_segmented(tmp_path):
    """Fault: outlines of lungs, drawn over a chest, segmented as if they were a radiograph."""
    run = ("run/config.json", "run/checkpoints/10/x", "run/overlays/best.png")
    touch(tmp_path, "a.png", "config.json", *run)
    output = epath.Path(tmp_path / "out")
    assert [file.label for file in name_files([tmp_path], output, ())] == ["a.png", "config.json"]
    with pytest.raises(DataError, match="holds no file to segment"):
        name_files([tmp_path / "run"], output, ())
    # By its own name a file is taken for what the user says it is.
    best = tmp_path / "run" / "overlays" / "best.png"
    assert len(name_files([best], output, ())) == 1


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


def test_nothing_to_do_is_an_error(tmp_path):
    """Fault: a mistyped folder ends with exit code 0."""
    with pytest.raises(DataError, match="no such file or folder"):
        name_files([tmp_path / "absent"], epath.Path(tmp_path), ())
    with pytest.raises(DataError, match="holds no file"):
        name_files([tmp_path], epath.Path(tmp_path / "out"), ())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output=out"], "no file is given"),
        (["a.png"], "--output: is missing"),
        (["absent.png", "--output=out"], "absent.png: no such file or folder"),
        (["a.png", "--output=a.png"], "a.png: is a file or inside one; give a folder"),
        (["a.png", "--output=a.png/out"], "a.png/out: is a file or inside one; give a folder"),
        (["a.png", "--output=out", "--config.data.frontal=1"], "data.frontal_only"),
        (["a.png", "--output=out", "--config.num_steps=5"], "num_steps"),
        (["a.png", "--output=out", "--checkpoint=x.safetensors"], "x.safetensors: No such file"),
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


@pytest.mark.parametrize(("names", "code"), [(["a.txt"], 1), (["a.txt", "a.png"], 0)])
def test_a_call_without_a_mask_has_failed(tmp_path, capsys, names, code):
    """Fault: exit code 0 for the wrong folder, or another for one odd file in an archive."""
    (tmp_path / "a.txt").write_text("no picture")
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


def test_the_packaged_network_finds_the_lungs_of_a_turned_phantom(tmp_path):
    """Fault: weights that do not belong to the code; the mask of a turned picture upright."""
    phantom = generate_phantom(5, 4)
    pixels = np.rint(phantom.image * 4095).astype(np.uint16)
    turned = {
        "BitsStored": 12, "HighBit": 11, "PatientOrientation": ["L", "H"],
        "ImagerPixelSpacing": ["0.5", "0.8"],
    }  # fmt: skip
    path = tmp_path / "turned.dcm"
    path.write_bytes(dicom_bytes(pixels[::-1].copy(), turned))
    (row,) = predict(packaged_segmenter(), [path], tmp_path / "out")
    assert row.status == "accepted"
    mask = cv2.imread(str(tmp_path / "out" / row.mask), cv2.IMREAD_UNCHANGED)
    assert mask is not None
    found = segment(path)
    np.testing.assert_array_equal(mask == 255, found.mask)
    for lung, truth in ((found.right, phantom.right_lung), (found.left, phantom.left_lung)):
        stored = truth[::-1]
        assert 2 * (lung & stored).sum() / (lung.sum() + stored.sum()) > 0.93
    sides = {"right": found.right, "left": found.left}
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
        drawn = (overlay == colour).all(axis=-1)
        rim = cv2.dilate(mask[::-1].astype(np.uint8), np.ones((5, 5))) > 0
        assert drawn.sum() > 100
        assert (drawn & rim).sum() > 0.99 * drawn.sum()


REAL = SHARED / "dicom"


@pytest.mark.skipif(not REAL.is_dir(), reason="no real DICOM files in ../shared/data/dicom")
def test_real_dicom_files_by_the_command(tmp_path):
    """Fault: a hip segmented, a chest refused, lungs of the wrong size or side."""
    subprocess.run(
        [sys.executable, "-m", "lungseg_jax.predict", REAL, f"--output={tmp_path}"],
        cwd=REPOSITORY,
        check=True,
    )
    rows = table(tmp_path)
    assert len(rows) == len(list(REAL.iterdir()))
    for row in rows:
        assert (row["status"] == "accepted") == row["file"].startswith("chest_"), row
        if row["status"] == "accepted":
            # Its heart and the gas in its stomach lie on the viewer's left.
            is_mirrored = row["file"] == "chest_cr_mono1_8bit_jpeg_baseline.dcm"
            assert ("mirrored" in row["notes"]) == is_mirrored
            assert float(row["estimated_dice"]) > 0.9
