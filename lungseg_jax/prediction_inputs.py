"""The files to segment, and what their results are called."""

import collections
import dataclasses
import hashlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence

from etils import epath

from lungseg_jax.errors import DataError
from lungseg_jax.prediction_table import MASK_ENDING, TABLE, as_in_table, overlay_of
from tfds_builder.sources.layout import files_below, is_hidden, stem_of

# Bytes of a result's name before its ending and a number.
_LONGEST = 220


@dataclasses.dataclass(frozen=True)
class Input:
    """A file to segment.

    Attributes:
      path: of the file.
      label: how the table calls it.
      name: what its results' names start with.
      earlier: masks that earlier calls made of it.
    """

    path: epath.Path
    label: str
    name: str
    earlier: tuple[str, ...] = ()

    @property
    def mask(self) -> str:
        """Name of its mask."""
        return f"{self.name}{MASK_ENDING}"


def name_files(
    paths: Sequence[epath.PathLike], output: epath.Path, earlier: Mapping[str, str]
) -> list[Input]:
    """Returns the files at the paths, each with a label and a name of its own.

    The name is the file's without its ending; of files that would share it, the label with its
    ending, and a number if need be.

    Args:
      paths: files, and folders of which every file counts but hidden ones. Results of earlier calls
        do not count.
      output: where results go.
      earlier: `prediction_table.earlier_masks` of it.

    Raises:
      DataError: a path is absent, there is no file, or a result would overwrite a file that is none
        of an earlier call.
    """
    results = {TABLE, *earlier, *map(overlay_of, earlier)}
    found = _find(paths, output, results)
    if not found:
        raise DataError(
            paths[0], "holds no file to segment", "give a folder of DICOM, PNG or JPEG files"
        )
    inputs = [Input(path, found[path], name) for path, name in _names(found).items()]
    for name in (name for own in inputs for name in (own.mask, overlay_of(own.mask))):
        if as_in_table(name) not in results and os.path.lexists(output / name):
            raise DataError(
                output / name,
                "would be overwritten, and is no result of an earlier call",
                "give another --output",
            )
    return _with_earlier(inputs, earlier)


def _find(
    paths: Sequence[epath.PathLike], output: epath.Path, results: Collection[str]
) -> dict[epath.Path, str]:
    """Returns the labels of the files at the paths, no two alike."""
    # By their whole paths, for a file may be given in two ways.
    found: dict[epath.Path, tuple[epath.Path, str]] = {}
    for given in map(epath.Path, paths):
        if given.is_dir():
            # Of several folders the table must tell which.
            root = given if len(paths) == 1 else given.parent
            for path in files_below(given):
                if not is_hidden(path, given) and not _is_result(path, output, results):
                    label = path.relative_to(root).as_posix()
                    found.setdefault(path.absolute(), (path, label))
        elif not given.exists():
            raise DataError(given, "no such file or folder", "check the path")
        elif not _is_result(given, output, results):
            found.setdefault(given.absolute(), (given, os.fspath(given)))
    if len({label for _, label in found.values()}) == len(found):
        return dict(found.values())
    common = os.path.commonpath([epath.Path(given).absolute() for given in paths])
    return {path: whole.relative_to(common).as_posix() for whole, (path, _) in found.items()}


def _is_result(path: epath.Path, output: epath.Path, results: Collection[str]) -> bool:
    # By their folders' own places, for the output may be given by another way.
    return as_in_table(path.name) in results and (
        os.path.realpath(path.parent) == os.path.realpath(output)
    )


def _names(labels: Mapping[epath.Path, str]) -> dict[epath.Path, str]:
    stems = collections.Counter(stem_of(path) for path in labels)
    taken: set[str] = set()
    names = {}
    for path, label in labels.items():
        stem = stem_of(path)
        name = _shortened(stem if stems[stem] == 1 else label.lstrip("./").replace("/", "_"))
        names[path] = next(
            own
            for own in (name, *(f"{name}-{n}" for n in range(2, len(labels) + 2)))
            if own not in taken
        )
        taken.add(names[path])
    return names


def _with_earlier(inputs: Iterable[Input], earlier: Mapping[str, str]) -> list[Input]:
    """Returns the files with the masks that are an earlier call's by their name or their label."""
    owners = {as_in_table(own.label): own for own in inputs}
    masks = {as_in_table(own.mask): own for own in inputs}
    found: dict[epath.Path, list[str]] = collections.defaultdict(list)
    for mask, label in earlier.items():
        # A name goes before a label: the file now writes there.
        owner = masks.get(mask) or owners.get(label)
        if owner:
            found[owner.path].append(owner.mask if mask in masks else mask)
    return [dataclasses.replace(own, earlier=tuple(found[own.path])) for own in inputs]


def _shortened(name: str) -> str:
    """Returns a name that leaves room for endings within the 255 bytes a file's name may have."""
    content = os.fsencode(name)
    if len(content) <= _LONGEST:
        return name
    digest = hashlib.sha256(content).hexdigest()[:16]
    return f"{os.fsdecode(content[: _LONGEST - 17])}-{digest}"
