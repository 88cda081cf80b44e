"""What an earlier call left: kept, replaced, or not touched."""

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from etils import epath

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.radiograph import ReadOptions
from lungseg_jax.predict import predict
from lungseg_jax.prediction.made_with import MADE_WITH
from lungseg_jax.prediction.many import segment_many
from lungseg_jax.prediction.results import NOTE, Result, key_of, open_note, read_note
from lungseg_jax.prediction.segmenter import Segmenter
from lungseg_jax.prediction.table import TABLE, Row
from lungseg_jax.runtime.alone import LOCK, alone_in
from lungseg_jax.weights import Calibration
from tests.images import png_bytes
from tests.untrained import CHEST, table, touch, untrained_weights


def test_what_masks_were_made_with_is_told(tmp_path, untrained):
    """Fault: masks in a study, and nobody knows of which network; or that of an earlier call."""
    (tmp_path / "1.png").write_bytes(png_bytes(CHEST))
    other = Segmenter(untrained_weights(Calibration(0.25)))
    both_ways = Segmenter(untrained_weights(Calibration(0.25)), both_ways=True)
    for segmenter, options, threshold, extras in (
        (untrained, ReadOptions(), untrained.threshold, ["sides"]),
        (other, ReadOptions(max_pixels=2**24), 0.25, []),
    ):
        predict(segmenter, [tmp_path / "1.png"], tmp_path / "out", options, extras=extras)
        told = json.loads((tmp_path / "out" / MADE_WITH).read_text())
        assert told["threshold"] == threshold
        assert [network["calibration"]["threshold"] for network in told["networks"]] == [threshold]
        assert told["reading"]["max_pixels"] == options.max_pixels
        assert told["versions"]["jax"] == jax.__version__
        assert told["extras"] == extras
    assert [other.description()["both_ways"], both_ways.description()["both_ways"]] == [False, True]


@pytest.mark.parametrize("output", [".", "out"])
def test_results_of_an_earlier_call_are_no_images(tmp_path, untrained, output: str):
    """Fault: masks segmented as if they were chests, because results go beside the images."""
    (tmp_path / "1.png").write_bytes(png_bytes(CHEST))
    for _ in range(2):
        rows = predict(untrained, [tmp_path], tmp_path / output)
        assert [row.file for row in rows] == ["1.png"]
        assert (tmp_path / output / "1_mask.png").exists()


@pytest.mark.parametrize("theirs", ["1_mask.png", "1_overlay.png", TABLE, MADE_WITH])
def test_files_of_others_are_not_overwritten(tmp_path, untrained, theirs: str):
    """Fault: a radiologist's reference beside its image lost under a mask of the network."""
    (tmp_path / "0.png").write_bytes(png_bytes(CHEST))
    (tmp_path / "1.png").write_bytes(png_bytes(CHEST))
    (tmp_path / theirs).write_bytes(b"dear")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError, match=f"{theirs}: .*; give another --output"):
        predict(untrained, [tmp_path], tmp_path)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / theirs).read_bytes() == b"dear"


def test_a_seg_that_was_not_asked_for_is_someone_elses(tmp_path, untrained):
    """Fault: a file of the name that one would have deleted, or not counted as an image."""
    (tmp_path / "1.png").write_bytes(png_bytes(CHEST))
    predict(untrained, [tmp_path], tmp_path)
    theirs = tmp_path / "1_seg.dcm"
    theirs.write_bytes(b"dear")
    rows = predict(untrained, [tmp_path], tmp_path)
    assert [row.file for row in rows] == ["1.png", "1_seg.dcm"]
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError, match=r"1_seg.dcm: would be overwritten"):
        predict(untrained, [tmp_path / "1.png"], tmp_path, extras=["dicom_seg"])
    assert sorted(tmp_path.iterdir()) == before
    assert theirs.read_bytes() == b"dear"


def test_extras_of_an_earlier_call_go_and_are_no_images(tmp_path, untrained):
    """Fault: a right lung's mask segmented as a chest, or left over from another network's call."""
    (tmp_path / "1.png").write_bytes(png_bytes(CHEST))
    predict(untrained, [tmp_path], tmp_path, extras=["sides", "probabilities"])
    extras = {"1_right.png", "1_left.png", "1_probabilities.png"}
    assert extras < {path.name for path in tmp_path.iterdir()}
    before = (tmp_path / "1_right.png").stat()
    predict(untrained, [tmp_path], tmp_path, extras=["probabilities", "sides"])
    assert (tmp_path / "1_right.png").stat() == before
    predict(untrained, [tmp_path], tmp_path / "out", extras=["sides"])
    written = {path.name for path in (tmp_path / "out").glob("1_*")}
    assert written == {"1_mask.png", "1_overlay.png", "1_right.png", "1_left.png"}
    # Fault: an hour's work lost to a call that asks for less.
    predict(untrained, [tmp_path], tmp_path)
    assert (tmp_path / "1_right.png").stat() == before
    other = Segmenter(untrained_weights(Calibration(0.0), seed=1))
    (row,) = predict(other, [tmp_path], tmp_path)
    assert row.file == "1.png"
    assert not extras & {path.name for path in tmp_path.iterdir()}


def test_results_given_by_name_are_not_segmented(tmp_path, untrained):
    """Fault: `predict x/*.png --output=x` once more takes its masks for chests."""
    (tmp_path / "1.png").write_bytes(png_bytes(CHEST))
    for _ in range(2):
        rows = predict(untrained, sorted(tmp_path.glob("*.png")), tmp_path)
        assert len(rows) == 1
    with pytest.raises(DataError, match="holds no file"):
        predict(untrained, [tmp_path / "1_mask.png"], tmp_path)


def test_a_file_without_results_keeps_none_of_an_earlier_call(tmp_path, untrained):
    """Fault: the mask of an image that is rejected now, or under a name it had, is still there."""
    output = tmp_path / "out"
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(png_bytes(CHEST))
    predict(untrained, [tmp_path], output)
    (tmp_path / "1.png").write_bytes(b"<html>")
    predict(untrained, [tmp_path], output)
    left = {path.name for path in output.iterdir()}
    assert left == {LOCK, NOTE, TABLE, MADE_WITH, "2_mask.png", "2_overlay.png"}
    (tmp_path / "2.dcm").write_bytes(b"<html>")
    predict(untrained, [tmp_path], output)
    assert {path.name for path in output.glob("*.png")} == {"2.png_mask.png", "2.png_overlay.png"}


def test_what_is_done_is_noted_at_once(tmp_path):
    """Fault: hours of finished masks made again, because a killed call had their rows in memory."""
    row = Row("", "accepted", estimated_dice=0.9, right_px=5, right_cm2=0.2, left_cm2=0.0)
    with open_note(epath.Path(tmp_path)) as add:
        add("1_mask.png", Result("key", "checksum"), row)
        noted = read_note(epath.Path(tmp_path))
        assert noted is not None
        assert noted["1_mask.png"].row == row


def test_a_call_that_was_stopped_goes_on(tmp_path, untrained, monkeypatch):
    """Fault: masks that no row names taken for another's files, or what was done made anew."""
    for name in ("1.png", "2.png", "3.png"):
        (tmp_path / name).write_bytes(png_bytes(CHEST))

    def stop_after(count: int) -> None:
        def interrupted(*arguments) -> Iterator[Row]:
            # All masks are written, but not all rows.
            yield from list(segment_many(*arguments))[:count]
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("lungseg_jax.predict.segment_many", interrupted)
            with pytest.raises(KeyboardInterrupt):
                predict(untrained, [tmp_path], tmp_path)

    stop_after(0)
    assert not table(tmp_path)
    assert len(list(tmp_path.glob("*_mask.png"))) == 3
    stop_after(2)
    assert len(table(tmp_path)) == 2
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*_mask.png")}
    assert len(predict(untrained, [tmp_path], tmp_path)) == 3
    assert len(table(tmp_path)) == 3
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*_mask.png")}
    assert {name for name in before if after[name] == before[name]} == {"1_mask.png", "2_mask.png"}
    assert {path.name for path in tmp_path.iterdir() if path.name[0] == "."} == {LOCK, NOTE}


@dataclasses.dataclass
class Folder:
    """Three images that were segmented, and what is known of their results."""

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
    # As a loss of power leaves them.
    (segmented.output / "3_mask.png").write_bytes(b"")
    assert segmented.again(untrained) == {"3_mask.png"}
    # As a call that was killed leaves it: half a line, and no table.
    note = (segmented.output / NOTE).read_text()
    (segmented.output / NOTE).write_text(note[:-20])
    (segmented.output / TABLE).unlink()
    last = json.loads(note.splitlines()[-1])["mask"]
    assert segmented.again(untrained) == {last}
    # Of another version: one line without, one with more.
    *lines, third, last = (segmented.output / NOTE).read_text().splitlines()
    third, last = json.loads(third), json.loads(last)
    last["row"]["column"] = 1
    lines += [json.dumps({"mask": third["mask"]}), json.dumps(last)]
    (segmented.output / NOTE).write_text("".join(f"{line}\n" for line in lines))
    assert last["mask"] in segmented.again(untrained)


@pytest.mark.parametrize("name", ["1_mask.png", "1_left.png"])
@pytest.mark.parametrize("other", [False, True])
def test_a_corrected_mask_is_not_replaced(tmp_path, untrained, name: str, other: bool):
    """Fault: a radiologist's afternoon of corrections lost to the same command, or to another."""
    (tmp_path / "1.png").write_bytes(png_bytes(CHEST))
    predict(untrained, [tmp_path / "1.png"], tmp_path / "out", extras=["sides"])
    path = tmp_path / "out" / name
    content = bytearray(path.read_bytes())
    # Of the same size.
    content[-20] ^= 1
    path.write_bytes(content)
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").glob("*.png")}
    segmenter = Segmenter(untrained_weights(Calibration(0.9))) if other else untrained
    with pytest.raises(DataError, match=f"{name}: was changed since it was written; move it"):
        predict(segmenter, [tmp_path / "1.png"], tmp_path / "out", extras=["sides"])
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").glob("*.png")} == before
    # Elsewhere it is safe.
    path.rename(tmp_path / name)
    predict(segmenter, [tmp_path / "1.png"], tmp_path / "out", extras=["sides"])
    assert path.exists()


def test_an_image_is_known_again_by_whatever_link_it_is_reached(tmp_path, untrained, monkeypatch):
    """Fault: from a folder that a link leads to, the same files are taken for others."""
    (tmp_path / "disk" / "archive").mkdir(parents=True)
    (tmp_path / "disk" / "archive" / "1.png").write_bytes(png_bytes(CHEST))
    (tmp_path / "home").symlink_to(tmp_path / "disk")
    predict(untrained, [tmp_path / "home" / "archive"], tmp_path / "out")
    before = (tmp_path / "out" / "1_mask.png").stat()
    # As in a shell, where the working directory is the folder's own place.
    monkeypatch.chdir(tmp_path / "home")
    predict(untrained, ["archive"], tmp_path / "out")
    assert (tmp_path / "out" / "1_mask.png").stat() == before


def test_what_would_be_made_otherwise_is_made_again(segmented, untrained, monkeypatch):
    """Fault: an old mask beside a new image, network, option or rule."""
    os.utime(segmented.root / "in" / "2.png", ns=(0, 0))
    assert segmented.again(untrained) == {"2_mask.png"}
    assert segmented.again(untrained, ReadOptions(correct_polarity=False)) == ALL
    other = untrained_weights(Calibration(0.0), seed=1)
    for segmenter in (Segmenter(other), Segmenter(other, both_ways=True), untrained):
        segmented.rows = predict(segmenter, [segmented.root / "in"], segmented.root / "fresh")
        assert segmented.again(segmenter) == ALL
    stricter = Segmenter(untrained_weights(Calibration(0.9)))
    segmented.rows = predict(stricter, [segmented.root / "in"], segmented.root / "fresh")
    assert segmented.again(stricter) == ALL
    monkeypatch.setattr("lungseg_jax.predict.digest_of_program", lambda: "another")
    assert segmented.again(stricter) == ALL


def test_masks_that_are_made_again_are_told(segmented, untrained, monkeypatch, capfd):
    """Fault: the work of a day begun anew for another version of the program, without a word."""
    words = "masks of earlier calls that are made anew"
    segmented.again(untrained)
    os.utime(segmented.root / "in" / "2.png", ns=(0, 0))
    assert words not in capfd.readouterr().err
    segmented.again(untrained)
    assert f"{words}: 1," in capfd.readouterr().err
    monkeypatch.setattr("lungseg_jax.predict.digest_of_program", lambda: "another")
    segmented.again(untrained)
    assert f"{words}: 3," in capfd.readouterr().err


def test_a_folder_takes_one_call_at_a_time(segmented, untrained):
    """Fault: the mask of one network beside the row of another."""
    with (
        alone_in(segmented.output, ""),
        pytest.raises(DataError, match=rf"is in use by process {os.getpid()} on .*; wait"),
    ):
        predict(untrained, [segmented.root / "in"], segmented.output)
    assert segmented.again(untrained) == set()


def test_calls_on_other_images_share_a_folder(tmp_path, untrained):
    """Fault: a loop over images that cannot be run twice, for the table names the last alone."""
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(png_bytes(CHEST))
    for name in ("1.png", "2.png", "1.png"):
        predict(untrained, [tmp_path / name], tmp_path)
    assert len(list(tmp_path.glob("*_mask.png"))) == 2
    assert len(predict(untrained, [tmp_path], tmp_path)) == 2


@pytest.mark.parametrize(
    "note",
    [
        '{"mask": "../dear_mask.png", "image": "KEY", "made_of": "", "sizes": [], "row": null}',
        '{"mask": "1_mask.png", "row": null}',
        '{"mask": "1_mask.png", "image": "", "made_of": "", "sizes": 5, "row": null}',
        "[" * 200_000,
        '["1_mask.png"]',
        "{",
        "5",
        "",
    ],
)
def test_a_note_of_others_names_no_file_elsewhere(tmp_path, untrained, note: str):
    """Fault: a note that came with a download has files outside the folder removed."""
    (tmp_path / "1.png").write_bytes(png_bytes(CHEST))
    touch(tmp_path, "dear_mask.png", "dear_overlay.png", "out/other.txt")
    # An image of this call, whose earlier results are removed.
    note = note.replace("KEY", key_of(epath.Path(tmp_path / "1.png")))
    (tmp_path / "out" / NOTE).write_text(f"{note}\n")
    refused = "was not written by this version of this command; give another --output"
    with pytest.raises(DataError, match=refused):
        predict(untrained, [tmp_path / "1.png"], tmp_path / "out")
    assert (tmp_path / "dear_mask.png").exists()
    assert (tmp_path / "dear_overlay.png").exists()


def test_the_result_of_another_image_of_the_name_is_kept(tmp_path, untrained):
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
    (tmp_path / "study3" / "1.png").write_text("no image")
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
    # Of another version, or of another program, which must hide nothing.
    (tmp_path / "first" / NOTE).write_text("{\n")
    with pytest.raises(DataError, match=r"first/\.predictions\.json: was not written by this ver"):
        predict(untrained, [tmp_path], tmp_path / "third")


def test_a_table_is_never_less_than_what_is_known(tmp_path, untrained, monkeypatch):
    """Fault: all areas lost to a reader, because a call that repeats was stopped at its start."""
    for name in "bcd":
        (tmp_path / f"{name}.png").write_bytes(png_bytes(CHEST))
    predict(untrained, [tmp_path], tmp_path / "out")
    before = table(tmp_path / "out")
    (tmp_path / "a.png").write_bytes(png_bytes(CHEST))

    def stop(*_: object) -> None:
        assert table(tmp_path / "out") == before
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lungseg_jax.predict.segment_many", stop)
        with pytest.raises(KeyboardInterrupt):
            predict(untrained, [tmp_path], tmp_path / "out")
    assert table(tmp_path / "out") == before
    predict(untrained, [tmp_path], tmp_path / "out")
    assert [row["file"] for row in table(tmp_path / "out")] == [f"{x}.png" for x in "abcd"]


def test_an_archive_that_disappears_ends_the_call(tmp_path, untrained):
    """Fault: exit code 0 and a thousand rejected files, because a disk was unmounted."""
    for number in range(20):
        (tmp_path / "in" / f"{number}").mkdir(parents=True)
        (tmp_path / "in" / f"{number}" / "x.png").write_bytes(png_bytes(CHEST))
    inputs = tmp_path / "in"

    class Vanishing(Segmenter):
        def predict(self, squares):
            if inputs.exists():
                inputs.rename(tmp_path / "elsewhere")
            return super().predict(squares)

    with pytest.raises(DataError, match="in: is gone since this command began; bring it back"):
        predict(Vanishing(untrained_weights(Calibration(0.5))), [inputs], tmp_path / "out")
    done = table(tmp_path / "out")
    assert {row["status"] for row in done} <= {"accepted", "rejected"}
    assert not any("No such file" in row["reason"] for row in done)
    (tmp_path / "elsewhere").rename(inputs)
    assert len(predict(untrained, [inputs], tmp_path / "out")) == 20
    # A single file that is gone is one of many.
    (inputs / "3" / "x.png").unlink()
    assert len(predict(untrained, [inputs], tmp_path / "out")) == 19
