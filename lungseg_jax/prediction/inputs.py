"""The files to segment, and what their results are called."""

import collections
import dataclasses
import functools
import hashlib
import itertools
import os
from collections.abc import Collection, Mapping, Sequence

from etils import epath

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.find_files import files_below, is_hidden, stem_of
from lungseg_jax.paths import VALIDATION, same_file_key
from lungseg_jax.prediction.made_with import MADE_WITH
from lungseg_jax.prediction.results import MASK_ENDING, Extra, files_of, place_of, results_in
from lungseg_jax.prediction.table import TABLE

# Most bytes of a result's name before its ending and a number.
_LONGEST = 220
# Of a name that is not the file's own: encrypted folders of network disks (eCryptfs) have names of
# at most 143 bytes, and files' own names are as long as they are.
_LONGEST_JOINED = 120


@dataclasses.dataclass(frozen=True)
class Input:
    """A file to segment.

    Attributes:
      path: the file's path.
      label: what the table calls it.
      name: what its results' names start with.
    """

    path: epath.Path
    label: str
    name: str

    @property
    def mask(self) -> str:
        """File name of its mask."""
        return f"{self.name}{MASK_ENDING}"


def name_files(
    paths: Sequence[epath.PathLike],
    output: epath.Path,
    earlier: Collection[str],
    extras: Collection[Extra] = (),
) -> list[Input]:
    """Returns the files at the paths, each with a label and a name of its own.

    The name is the file's without its ending; where files would share that, it is the label with
    its ending, and a number if need be.

    Args:
      paths: files, and folders, in which every file counts but hidden ones. Results of earlier
        calls do not count, wherever they went, nor does what a training run or validation wrote.
      output: where results go.
      earlier: names of results of earlier calls there, the only ones that may be overwritten.
      extras: what goes there besides masks and overlays.

    Raises:
      DataError: a path is absent, there is no file, a result would overwrite another's file, or
        results of another version are among the files.
    """
    found = _find(paths)
    if not found:
        raise DataError(
            paths[0], "holds no file to segment", "give a folder of DICOM, PNG or JPEG files"
        )
    inputs = [Input(path, found[path], name) for path, name in _names(found).items()]
    files = (files_of(file.mask, extras) for file in inputs)
    for name in (TABLE, MADE_WITH, *itertools.chain.from_iterable(files)):
        if name not in earlier and os.path.lexists(output / name):
            raise DataError(
                output / name,
                "would be overwritten, but was not written by this command",
                "give another --output",
            )
    return inputs


def _find(paths: Sequence[epath.PathLike]) -> dict[epath.Path, str]:
    """Returns the labels, no two alike, of the files at the paths that are not results."""
    results, holds_figures = functools.cache(results_in), functools.cache(_holds_figures)
    # By their places, because a file may be given in two ways.
    found: dict[str, tuple[epath.Path, str]] = {}
    for given in map(epath.Path, paths):
        if given.is_dir():
            # With several folders, the table must say which one.
            root = given if len(paths) == 1 else given.parent
            for path in files_below(given, go_on=True):
                below = path.relative_to(given)
                # Overlays there are images of chests too.
                if is_hidden(path, given) or any(
                    holds_figures(given / parent) for parent in below.parents
                ):
                    continue
                if path.name not in results(path.parent):
                    label = path.relative_to(root).as_posix()
                    found.setdefault(place_of(path), (path, label))
        elif not given.exists():
            raise DataError(given, "no such file or folder", "check the path")
        elif given.name not in results(given.parent):
            found.setdefault(place_of(given), (given, os.fspath(given)))
    if len({label for _, label in found.values()}) == len(found):
        return dict(found.values())
    common = os.path.commonpath([epath.Path(given).absolute() for given in paths])
    return {path: path.absolute().relative_to(common).as_posix() for path, _ in found.values()}


def _holds_figures(folder: epath.Path) -> bool:
    """Whether a training run or a validation has written to the folder."""
    is_run = (folder / "config.json").is_file() and (folder / "checkpoints").is_dir()
    return is_run or (folder / VALIDATION).is_file()


def _names(labels: Mapping[epath.Path, str]) -> dict[epath.Path, str]:
    # Compared as by any file system, because results are copied to others, too.
    stems = collections.Counter(same_file_key(stem_of(path)) for path in labels)
    taken: set[str] = set()
    names = {}
    for path, label in labels.items():
        stem = stem_of(path)
        if stems[same_file_key(stem)] == 1:
            name, longest = stem, _LONGEST
        else:
            name, longest = label.lstrip("./").replace("/", "_"), _LONGEST_JOINED
        # Tables can name only what is valid text.
        name = _shortened(os.fsencode(name).decode(errors="replace"), longest)
        numbered = (f"{name}-{n}" for n in itertools.count(2))
        names[path] = next(
            candidate
            for candidate in itertools.chain([name], numbered)
            if same_file_key(candidate) not in taken
        )
        taken.add(same_file_key(names[path]))
    return names


def _shortened(name: str, longest: int) -> str:
    """Returns a name that leaves room for endings within the bytes that a file's name may have."""
    content = name.encode()
    if len(content) <= longest:
        return name
    digest = hashlib.sha256(content).hexdigest()[:16]
    return f"{content[: longest - 17].decode(errors='ignore')}-{digest}"
