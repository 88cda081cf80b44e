"""The files to segment, and what their results are called."""

import collections
import dataclasses
import os
from collections.abc import Sequence

from etils import epath

from lungseg_jax.errors import DataError
from tfds_builder.sources.layout import files_below, is_hidden, stem_of


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
    """Returns the files at the paths, each with a name of its own.

    The name is the file's without its ending; of files that would share it, the path below the
    folder that was given, with its ending.

    Args:
      paths: files, and folders of which every file counts but hidden ones.
      output: what lies below it was written by an earlier call.

    Raises:
      DataError: a path is absent, or there is no file.
    """
    found: dict[epath.Path, str] = {}
    for given in map(epath.Path, paths):
        if given.is_dir():
            below = [path for path in files_below(given) if not is_hidden(path, given)]
            # Without links in them, for the output may be given by another way.
            own = os.path.realpath(output) + os.sep
            below = [path for path in below if not os.path.realpath(path).startswith(own)]
            found |= {path: path.relative_to(given).as_posix() for path in below}
        elif given.exists():
            found[given] = os.fspath(given)
        else:
            raise DataError(given, "no such file or folder", "check the path")
    if not found:
        raise DataError(paths[0], "holds no file", "give a folder of DICOM, PNG or JPEG files")
    stems = collections.Counter(stem_of(path) for path in found)
    taken: collections.Counter[str] = collections.Counter()
    inputs = []
    for path, label in found.items():
        name = stem_of(path) if stems[stem_of(path)] == 1 else label.strip("/").replace("/", "_")
        taken[name] += 1
        unique = name if taken[name] == 1 else f"{name}-{taken[name]}"
        inputs.append(Input(path, label, unique))
    return inputs
