"""Which files in a folder are results of earlier calls, and which of them a call need not repeat.

A hidden note beside the results says so, not their names: references are called `*_mask.png` too.
It has a line of JSON (with Python's NaN) for each mask to be written, and another once it is.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from etils import epath

from lungseg_jax.errors import DataError
from lungseg_jax.file_digest import digest_file, stamp
from lungseg_jax.paths import open_own, read_file, remove_unfinished, write_whole
from lungseg_jax.prediction.made_with import MADE_WITH
from lungseg_jax.prediction.table import TABLE, Row

MASK_ENDING, OVERLAY_ENDING = "_mask.png", "_overlay.png"
# What is written only if asked for, by the command's flag of that name.
Extra = Literal["dicom_seg", "sides", "probabilities"]
_EXTRA_ENDINGS: dict[Extra, tuple[str, ...]] = {
    "dicom_seg": ("_seg.dcm",),
    "sides": ("_right.png", "_left.png"),
    "probabilities": ("_probabilities.png",),
}

NOTE = ".predictions.json"


@dataclasses.dataclass(frozen=True)
class Result:
    """What the note says about a mask.

    Attributes:
      image: key of the mask's image; see `key_of`.
      made_of: what it is computed from; see `what_it_is_made_of`.
      extras: what was wanted besides mask and overlay, sorted.
      sizes: sizes of `files_of` in bytes, -1 where there is none, once they are written; truncated
        overlays are made again.
      digests: SHA-256 of `_masks_of`, once they are written, empty where there is none: people
        correct masks, and a corrected one is theirs.
      row: row of the table, without the image's name, once it is known.
    """

    image: str
    made_of: str
    extras: tuple[Extra, ...] = ()
    sizes: tuple[int, ...] = ()
    digests: tuple[str, ...] = ()
    row: Row | None = None


Note = Mapping[str, Result]


def overlay_of(mask: str) -> str:
    """Returns the name of the overlay that goes with a mask."""
    return mask.removesuffix(MASK_ENDING) + OVERLAY_ENDING


def extra_of(mask: str, extra: Extra) -> tuple[str, ...]:
    """Returns the names of the files of an extra that go with a mask: of sides, right and left."""
    return tuple(mask.removesuffix(MASK_ENDING) + ending for ending in _EXTRA_ENDINGS[extra])


def files_of(mask: str, extras: Collection[Extra]) -> tuple[str, ...]:
    """Returns the names of all files that may be written for an image, from its mask's name.

    Args:
      mask: name of the mask.
      extras: what is wanted, too. A file that would be another extra's is someone else's.
    """
    more = (extra_of(mask, extra) for extra in extras)
    return mask, overlay_of(mask), *itertools.chain.from_iterable(more)


def place_of(file: epath.Path) -> str:
    """Returns the path of a file by its folder's real path, whatever links led there.

    A file that is a link counts by its own name: its target may be named by content.
    """
    return os.path.join(os.path.realpath(file.parent), file.name)  # noqa: PTH118


def key_of(image: epath.Path) -> str:
    """Returns the note's name for an image: results are passed on, and paths reveal a lot.

    Whoever knows the form of a path can still find it by trying.
    """
    return hashlib.sha256(os.fsencode(place_of(image))).hexdigest()[:16]


def what_it_is_made_of(image: epath.Path, makers: Sequence[str]) -> str:
    """Returns a checksum of all that a result depends on.

    Args:
      image: identified by size and time: reading an archive takes hours.
      makers: strings that identify network, options and program.
    """
    return hashlib.sha256(json.dumps([*stamp(image), *makers]).encode()).hexdigest()


def read_note(output: epath.Path) -> dict[str, Result] | None:
    """Returns what the note says about each mask, by its name; `None` if nothing was written there.

    Raises:
      DataError: the file is not a note of an earlier call.
    """
    path = output / NOTE
    try:
        # A call that is killed may leave half a line.
        *lines, _ = read_file(path).split("\n")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise DataError(path, "cannot be read", "give another --output") from error
    noted = dict(filter(None, map(_parse, lines)))
    if not noted:
        fault = "was not written by this version of this command"
        raise DataError(path, fault, "give another --output")
    return noted


def results_of(noted: Note | None) -> frozenset[str]:
    """Returns the names of all results in a note, given as `read_note` returns it."""
    if noted is None:
        return frozenset()
    files = (files_of(mask, result.extras) for mask, result in noted.items())
    return frozenset({TABLE, MADE_WITH, *itertools.chain.from_iterable(files)})


def results_in(folder: epath.Path) -> frozenset[str]:
    """Returns the names of the results in a folder.

    Raises:
      DataError: there is a note that does not tell: overlays look like the images they show.
    """
    try:
        return results_of(read_note(folder))
    except DataError as error:
        remedy = "move its folder out of the images', or the note if there are no results"
        raise DataError(error.subject, error.fault, remedy) from error


def make_room(output: epath.Path, noted: Note, wanted: Note) -> dict[str, Row]:
    """Removes earlier results of a call's images, and notes the masks that it will write.

    What the call would only make again is kept. Masks are noted before they are written: a call may
    be killed between a mask and its row.

    Args:
      output: the folder.
      noted: as `read_note` returns it.
      wanted: the masks of this call.

    Returns:
      The rows of the results that are kept, by their masks.

    Raises:
      DataError: another image has a mask of that name, or a mask was changed since it was written;
        nothing was removed.
    """
    remove_unfinished(output)
    images = {result.image for result in wanted.values()}
    for mask, result in noted.items():
        if result.image in images:
            _check_unchanged(output, mask, result)
    stay = {mask: noted[mask] for mask in wanted if _stays(output, mask, noted, wanted)}
    for mask, result in wanted.items():
        names = files_of(mask, result.extras)
        there = any(os.path.lexists(output / name) for name in names)
        if there and noted.get(mask, result).image not in images:
            # Archives give the images of all patients the same names.
            fault = "is the result of another file of that name"
            raise DataError(output / mask, fault, "give another --output")
    of_others = {mask: result for mask, result in noted.items() if result.image not in images}
    for mask in noted.keys() - of_others.keys() - stay.keys():
        for name in files_of(mask, noted[mask].extras):
            (output / name).unlink(missing_ok=True)
    masks = of_others | dict(wanted) | stay
    write_whole(output / NOTE, "".join(map(_line, masks, masks.values())).encode())
    return {mask: result.row for mask, result in stay.items() if result.row}


def _masks_of(mask: str, extras: Collection[Extra]) -> tuple[str, ...]:
    """Returns the names of the masks among `files_of`."""
    more = (extra_of(mask, extra) for extra in ("sides", "dicom_seg") if extra in extras)
    return mask, *itertools.chain.from_iterable(more)


def _digests(output: epath.Path, mask: str, result: Result) -> tuple[str, ...]:
    paths = [output / name for name in _masks_of(mask, result.extras)]
    # A loss of power may leave a file empty.
    return tuple(digest_file(path).sha256 if stamp(path)[0] > 0 else "" for path in paths)


def _check_unchanged(output: epath.Path, mask: str, result: Result) -> None:
    """Refuses to go on where a mask is no longer what was written."""
    # Of a mask that was begun and not finished, nothing is known.
    now = _digests(output, mask, result) if result.digests else ()
    for name, before, found in zip(
        _masks_of(mask, result.extras), result.digests, now, strict=False
    ):
        if found and found != before:
            remedy = "move it to another folder, or give another --output"
            raise DataError(output / name, "was changed since it was written", remedy)


def _extras_in(fields: Mapping) -> tuple[Extra, ...]:
    return tuple(sorted(set(get_args(Extra)).intersection(fields.get("extras", ()))))


def _stays(output: epath.Path, mask: str, noted: Note, wanted: Note) -> bool:
    """Whether a mask's files and row are there, made from what this call would make them from."""
    earlier = noted.get(mask)
    if earlier is None or earlier.row is None:
        return False
    now = wanted[mask]
    same = (earlier.image, earlier.made_of) == (now.image, now.made_of)
    enough = {*now.extras} <= {*earlier.extras}
    return same and enough and earlier.sizes == _sizes(output, mask, earlier)


def _sizes(output: epath.Path, mask: str, result: Result) -> tuple[int, ...]:
    names = files_of(mask, result.extras)
    return tuple(stamp(output / name)[0] for name in names)


@contextlib.contextmanager
def open_note(output: epath.Path) -> Iterator[Callable[[str, Result, Row], None]]:
    """Opens the note in a folder and yields a function that at once adds to it what was done."""
    with open_own(output / NOTE, "a", buffering=1) as file:

        def add(mask: str, result: Result, row: Row) -> None:
            done = dataclasses.replace(
                result,
                sizes=_sizes(output, mask, result),
                digests=_digests(output, mask, result),
                row=row,
            )
            file.write(_line(mask, done))

        yield add


def _line(mask: str, result: Result) -> str:
    row = result.row and {**vars(result.row), "file": ""}
    return json.dumps({**vars(result), "mask": mask, "row": row}) + "\n"


def _parse(line: str) -> tuple[str, Result] | None:
    """Returns a mask's name and result; `None` for a line that this version does not write."""
    try:
        fields = json.loads(line)
        mask, row = fields["mask"], fields["row"]
        result = Result(
            str(fields["image"]),
            str(fields["made_of"]),
            _extras_in(fields),
            tuple(fields["sizes"]),
            tuple(fields.get("digests", ())),
        )
        # A file elsewhere is not a result, whatever a note written by others says.
        if not mask.endswith(MASK_ENDING) or Path(mask).name != mask:
            return None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    with contextlib.suppress(TypeError):
        # A row of another version fails: the result is made again.
        result = dataclasses.replace(result, row=row and Row(**row))
    return mask, result
