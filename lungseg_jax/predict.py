"""Segments lungs on radiographs: DICOM, PNG and JPEG files in, masks out.

Usage: python -m lungseg_jax.predict FILE_OR_FOLDER… --output=DIR [--checkpoint=PATH]

--output=DIR        where <name>_mask.png, <name>_overlay.png and predictions.csv go
--checkpoint=PATH   network to use instead of the weights in the package: a file of
                    lungseg_jax.export, or the folder of a run, whose threshold and estimate are
                    not calibrated; given several times, the networks' mean, such as that of the
                    folds of a cross-validation
--both_ways         average with the prediction of the mirrored image, at twice the time
--sides             write a mask of each lung, too: <name>_right.png, <name>_left.png
--probabilities     write the probability of lung, too: <name>_probabilities.png, 65535 for one
--dicom_seg         write the lungs of accepted DICOM files as DICOM SEG, too: <name>_seg.dcm, with
                    the patient's name; needs pip install highdicom
--config.data.KEY=VALUE  how files are read: frontal_only, correct_polarity, max_megapixels
"""

import collections
import contextlib
import dataclasses
import functools
import math
import os
import sys
import threading
from collections.abc import Callable, Collection, Generator, Sequence

import numpy as np
from etils import epath
from jaxtyping import UInt16
from numpy.typing import ArrayLike

from lungseg_jax import terminal
from lungseg_jax.command import run_command
from lungseg_jax.command_line import parse_prediction
from lungseg_jax.errors import DataError
from lungseg_jax.find_weights import PACKAGED, find_weights
from lungseg_jax.imaging.dicom_seg import check_highdicom, encode_dicom_seg
from lungseg_jax.imaging.files import why_no_file
from lungseg_jax.imaging.network_input import read_network_input
from lungseg_jax.imaging.opencv_memory import opencv_memory_errors
from lungseg_jax.imaging.radiograph import Radiograph, ReadOptions, read_options
from lungseg_jax.paths import local_path, make_folder, write_whole
from lungseg_jax.prediction.images import encode_images
from lungseg_jax.prediction.inputs import Input, name_files
from lungseg_jax.prediction.made_with import write_made_with
from lungseg_jax.prediction.many import segment_many
from lungseg_jax.prediction.results import (
    Extra,
    Result,
    extra_of,
    key_of,
    make_room,
    open_note,
    read_note,
    results_of,
    what_it_is_made_of,
)
from lungseg_jax.prediction.segmentation import Segmentation
from lungseg_jax.prediction.segmenter import Prediction, Segmenter
from lungseg_jax.prediction.table import TABLE, Row, open_table, write_table
from lungseg_jax.runtime.alone import alone_in
from lungseg_jax.runtime.compilation_cache import use_compilation_cache
from lungseg_jax.runtime.cores import num_readers
from lungseg_jax.runtime.environment import digest_of_program
from lungseg_jax.runtime.sandbox import Sandboxes

# Most rejected files that are named at the end; the table names all.
MOST_SHOWN = 20


# Without it, threads whose first calls come at once would each load and compile a network.
_loading = threading.Lock()


def packaged_segmenter() -> Segmenter:
    """Returns the network in the package, loaded once.

    Raises:
      CheckpointError: its file is damaged.
    """
    with _loading:
        return _packaged_segmenter()


@functools.cache
def _packaged_segmenter() -> Segmenter:
    return Segmenter(find_weights(PACKAGED))


def segment(
    image: epath.PathLike | ArrayLike, options: ReadOptions = ReadOptions()
) -> Segmentation:
    """Returns the lungs on an image, found by the network in the package.

    Args:
      image: DICOM, PNG or JPEG file, its bytes, or an array, height × width, upright and bone
        bright: in [0, 1], or whole numbers as in a PNG file.
      options: how files are read and what is checked.

    Raises:
      NotFrontalError: by its header, an image of something other than a frontal chest.
      DataError: the file cannot be read, the array is not an image, or it is too small.
    """
    return packaged_segmenter().segment(image, options)


def predict(
    segmenter: Segmenter,
    paths: epath.PathLike | Sequence[epath.PathLike],
    output: epath.PathLike,
    options: ReadOptions = ReadOptions(),
    *,
    extras: Collection[Extra] = (),
) -> list[Row]:
    """Segments files, writes masks, overlays and the table, and returns the table's rows.

    A file that cannot be read becomes a rejected row and never stops the others: worker processes
    read them. Of an earlier call's results for these files, masks that would come out the same are
    kept; the others are removed first.

    Args:
      segmenter: the network.
      paths: files, and folders, in which every file is taken but results of earlier calls; or one
        of them.
      output: folder to write to.
      options: how files are read.
      extras: what to write besides masks and overlays: `sides`, a mask of each lung;
        `probabilities`, that of lung times 65535; `dicom_seg`, the lungs of accepted DICOM files as
        DICOM SEG.

    Raises:
      ConfigError: DICOM SEG cannot be written.
      DataError: no path is given, one is absent or not on disk, there is no file, or the output is
        not a folder on disk, holds a file of someone else's or another file's result where a result
        goes, or is being written to; or a folder is gone before all its files are read.
    """
    # A string is a sequence, too, whose first letter may be the root of all files.
    named = [paths] if isinstance(paths, str | os.PathLike) else paths
    paths, output = [local_path(path) for path in named], local_path(output)
    if not paths:
        raise DataError("paths", "none is given", "name files or folders")
    if "dicom_seg" in extras:
        check_highdicom()
    earlier = results_of(read_note(output))
    inputs = name_files(paths, output, earlier, extras)
    make_folder(output)
    with alone_in(output, "wait for its end, or give another --output"):
        folders = [path for path in paths if path.is_dir()]
        extras = tuple(sorted(extras))
        return _segment_what_is_left(segmenter, inputs, output, options, extras, folders)


def _segment_what_is_left(
    segmenter: Segmenter,
    inputs: Sequence[Input],
    output: epath.Path,
    options: ReadOptions,
    extras: tuple[Extra, ...],
    folders: Sequence[epath.Path],
) -> list[Row]:
    makers = (segmenter.identity(), repr(options), digest_of_program())
    wanted = {
        file.mask: Result(key_of(file.path), what_it_is_made_of(file.path, makers), extras)
        for file in inputs
    }
    # Read here: until now another call may have been writing.
    noted = read_note(output) or {}
    done = make_room(output, noted, wanted)
    write_made_with(output, segmenter, options, extras)
    if done:
        terminal.say(f"{len(done)} of {len(inputs)} files were done by an earlier call")
    # Others were begun and not finished.
    finished = {mask for mask, result in noted.items() if result.digests}
    if again := len(wanted.keys() & finished - done.keys()):
        terminal.say(
            f"masks of earlier calls that are made anew: {again}, because their files, the "
            "network, the options or the versions were others"
        )
    known = {
        file: dataclasses.replace(done[file.mask], file=file.label)
        for file in inputs
        if file.mask in done
    }
    left = [file for file in inputs if file not in known]
    # All that is known, before anything else is found out: the call may be stopped at any moment.
    write_table(output, known.values())
    rows = []
    with (
        terminal.progress("segment", len(inputs), "file", len(done)) as bar,
        open_table(output) as add_row,
        open_note(output) as add_result,
        contextlib.closing(
            _segment_files(segmenter, left, options, output, extras, makers, folders)
        ) as made,
    ):
        for file in inputs:
            row = known.get(file) or next(made)
            rows.append(row)
            if file in known:
                continue
            bar.update()
            if row.mask:
                add_result(file.mask, wanted[file.mask], row)
            add_row(row)
    # In the order of the files.
    write_table(output, rows)
    return rows


def _segment_files(
    segmenter: Segmenter,
    inputs: Sequence[Input],
    options: ReadOptions,
    output: epath.Path,
    extras: Collection[Extra],
    makers: Sequence[str],
    folders: Sequence[epath.Path],
) -> Generator[Row]:
    """Yields a row for each file in order, once its results are written.

    Args:
      segmenter: the network.
      inputs: the files.
      options: how they are read.
      output: folder for the results.
      extras: what is written besides masks and overlays.
      makers: those of `encode_dicom_seg`.
      folders: those that the files were found in.

    Raises:
      DataError: a folder is gone.
    """
    with Sandboxes(num_readers(), options.memory_bytes, read_network_input) as sandboxes:

        def encode_seg(file: Input, lungs: Segmentation) -> bytes:
            sides = lungs.right, lungs.left
            return sandboxes.call(file.path, encode_dicom_seg, file.path, *sides, options, makers)

        read = functools.partial(_read, sandboxes, options, segmenter.image_size, folders)
        finish = functools.partial(_finish, segmenter, output, extras, encode_seg)
        yield from segment_many(segmenter, inputs, read, finish, sandboxes.stop)


def _read(
    sandboxes: Sandboxes,
    options: ReadOptions,
    size: int,
    folders: Sequence[epath.Path],
    file: Input,
) -> tuple[UInt16[np.ndarray, "s s 1"] | None, Radiograph | str]:
    """Returns the network input of a file and its radiograph, or what is wrong with it."""
    if fault := why_no_file(file.path):
        _check_still_there(folders)
        return None, fault
    try:
        radiograph, square = sandboxes.call(file.path, read_network_input, file.path, options, size)
    except DataError as error:
        return None, error.fault
    return square, radiograph


def _check_still_there(folders: Sequence[epath.Path]) -> None:
    """Raises DataError if a folder is gone, or empty as where a disk was mounted."""
    for folder in folders:
        try:
            gone = next(folder.iterdir(), None) is None
        except OSError:
            gone = True
        if gone:
            remedy = "bring it back, then run the same command to go on"
            raise DataError(folder, "is gone since this command began", remedy)


def _finish(
    segmenter: Segmenter,
    output: epath.Path,
    extras: Collection[Extra],
    encode_seg: Callable[[Input, Segmentation], bytes],
    file: Input,
    radiograph: Radiograph | str,
    prediction: Prediction | None,
) -> Row:
    """Writes the results of an image that could be read; returns its row."""
    if isinstance(radiograph, str) or prediction is None:
        return Row(file.label, "rejected", str(radiograph))
    try:
        with opencv_memory_errors():
            result = segmenter.finish(radiograph, prediction)
            images = encode_images(
                file.mask, radiograph, result, extras, calibrated=segmenter.calibrated
            )
    except MemoryError:
        return Row(file.label, "rejected", "needs more memory than there is")
    for name, content in images.items():
        write_whole(output / name, content)
    notes, seg = result.notes, ""
    if "dicom_seg" in extras and result.accepted:
        try:
            content = encode_seg(file, result)
        except DataError as error:
            notes = (*notes, f"no DICOM SEG: {error.fault}")
        else:
            (seg,) = extra_of(file.mask, "dicom_seg")
            write_whole(output / seg, content)
    height, width = result.mask.shape
    right_px, left_px = result.area_px
    right_cm2, left_cm2 = result.area_cm2 or (math.nan, math.nan)
    return Row(
        file=file.label,
        status="accepted" if result.accepted else "rejected",
        reason="; ".join(result.doubts),
        estimated_dice=round(result.estimated_dice, 4),
        right_px=right_px,
        left_px=left_px,
        right_cm2=round(right_cm2, 2),
        left_cm2=round(left_cm2, 2),
        spacing_source=result.spacing_source,
        height=height,
        width=width,
        notes="; ".join(notes),
        mask=file.mask,
        dicom_seg=seg,
    )


def main(arguments: Sequence[str]) -> int:
    """Segments what the command line names; returns the exit code."""
    again = "run the same command to go on"
    return run_command(arguments, str(__doc__), lambda: _run(arguments), again)


def _run(arguments: Sequence[str]) -> None:
    given = parse_prediction(arguments)
    use_compilation_cache()
    members = [find_weights(checkpoint) for checkpoint in given.checkpoints or [PACKAGED]]
    segmenter = Segmenter(*members, both_ways=given.both_ways)
    options = read_options(given.config.data)
    rows = predict(segmenter, given.paths, given.output, options, extras=given.extras)
    terminal.say(_closing_words(rows, epath.Path(given.output)))
    if not any(row.mask for row in rows):
        table = epath.Path(given.output) / TABLE
        raise DataError(table, "no file could be segmented", "see the reasons in it")
    if not segmenter.calibrated:
        terminal.say(
            "estimated_dice is not calibrated and rejects nothing; lungseg_jax.export calibrates a "
            "run, if its validation images are not too few"
        )


def _closing_words(rows: Sequence[Row], output: epath.Path) -> str:
    rejected = collections.defaultdict(list)
    for row in rows:
        if row.status == "rejected":
            rejected[terminal.without_numbers(row.reason)].append(row)
    by_count = sorted(rejected.values(), key=len, reverse=True)
    lines = [_rejections(alike) for alike in by_count[:MOST_SHOWN]]
    if rest := sum(map(len, by_count[MOST_SHOWN:])):
        lines.append(f"and {rest} more, for other reasons")
    accepted = [row for row in rows if row.status == "accepted"]
    count = f"{len(accepted)} of {len(rows)} files accepted"
    if noted := sum(bool(row.notes) for row in accepted):
        count += f", {noted} of them with notes on what was corrected or is odd"
    if mirrored := sum(_may_be_mirrored(row) for row in rows):
        count += f"; {mirrored} perhaps mirrored: check right and left"
    return "\n".join([*lines, f"{count}; {output / TABLE}"])


def _may_be_mirrored(row: Row) -> bool:
    return any(words in row.notes for words in ("appears mirrored", "may be mirrored"))


def _rejections(rows: Sequence[Row]) -> str:
    """Says why files were rejected, all for the same reason."""
    first = f"{terminal.on_one_line(rows[0].file)}: rejected, {rows[0].reason}"
    if len(rows) == 1:
        return first
    return f"{first} (and {len(rows) - 1} more alike)"


if __name__ == "__main__":
    sys.exit(main(sys.argv))
