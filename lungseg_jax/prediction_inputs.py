"""The files to segment, and what their results are called."""

import collections
import dataclasses
import hashlib
import os
from collections.abc import Sequence

from etils import epath

from lungseg_jax.errors import DataError
from lungseg_jax.prediction_table import TABLE
from tfds_builder.sources.layout import files_below, is_hidden, stem_of

MASK_ENDING, OVERLAY_ENDING = "_mask.png", "_overlay.png"

# Bytes of a result's name before its ending and a number.
_LONGEST = 220


@dataclasses.dataclass(frozen=True)
class Input:
    """A file to segment.

    Attributes:
      path: of the file.
      label: how the table calls it.
      name: what its results' names start with.
    """

    path: epath.Path
    label: str
    name: str


def name_files(paths: Sequence[epath.PathLike], output: epath.Path) -> list[Input]:
    """Returns the files at the paths, each with a label and a name of its own.

    The name is the file's without its ending; of files that would share it, the label with its
    ending, and a number if need be.

    Args:
      paths: files, and folders of which every file counts but hidden ones.
      output: where results go; what lies there by a result's name is one of an earlier call.

    Raises:
      DataError: a path is absent, or there is no file.
    """
    found = _find(paths, output)
    if not found:
        raise DataError(paths[0], "holds no file", "give a folder of DICOM, PNG or JPEG files")
    stems = collections.Counter(stem_of(path) for path in found)
    taken: set[str] = set()
    inputs = []
    for path, label in found.items():
        stem = stem_of(path)
        name = _shortened(stem if stems[stem] == 1 else label.lstrip("./").replace("/", "_"))
        unique = next(
            own
            for own in (name, *(f"{name}-{n}" for n in range(2, len(found) + 2)))
            if own not in taken
        )
        taken.add(unique)
        inputs.append(Input(path, label, unique))
    return inputs


def _find(paths: Sequence[epath.PathLike], output: epath.Path) -> dict[epath.Path, str]:
    """Returns the labels of the files at the paths, no two alike."""
    # By their whole paths, for a file may be given in two ways.
    found: dict[epath.Path, tuple[epath.Path, str]] = {}
    for given in map(epath.Path, paths):
        if given.is_dir():
            # Of several folders the table must tell which.
            root = given if len(paths) == 1 else given.parent
            for path in files_below(given):
                if not is_hidden(path, given) and not _is_result(path, output):
                    label = path.relative_to(root).as_posix()
                    found.setdefault(path.absolute(), (path, label))
        elif not given.exists():
            raise DataError(given, "no such file or folder", "check the path")
        else:
            found.setdefault(given.absolute(), (given, os.fspath(given)))
    if len({label for _, label in found.values()}) == len(found):
        return dict(found.values())
    common = os.path.commonpath([epath.Path(given).absolute() for given in paths])
    return {path: whole.relative_to(common).as_posix() for whole, (path, _) in found.items()}


def _is_result(path: epath.Path, output: epath.Path) -> bool:
    is_named_so = path.name == TABLE or path.name.endswith((MASK_ENDING, OVERLAY_ENDING))
    # By their folders' own places, for the output may be given by another way.
    return is_named_so and os.path.realpath(path.parent) == os.path.realpath(output)


def _shortened(name: str) -> str:
    """Returns a name that leaves room for endings within the 255 bytes a file's name may have."""
    content = os.fsencode(name)
    if len(content) <= _LONGEST:
        return name
    digest = hashlib.sha256(content).hexdigest()[:16]
    return f"{os.fsdecode(content[: _LONGEST - 17])}-{digest}"
