"""Any folder: pictures paired with masks by a list, `pairs.csv`, or by patterns of their names."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from etils import epath

from lungseg_jax.errors import ConfigError, DataError
from lungseg_jax.imaging.structures import Structure
from tfds_builder.sources.layout import (
    MASK_SUFFIXES,
    Case,
    Clinical,
    Listing,
    MaskFile,
    check_not_empty,
    files_below,
    is_hidden,
    make_listing,
    stem_of,
)
from tfds_builder.sources.pairs import PAIRS, SOURCE, list_pairs

# What lies beside pictures; a DICOM file may have any other suffix, or none.
_NO_PICTURE = (".txt", ".csv", ".json", ".xml", ".md", ".pdf", ".docx", ".xlsx", ".zip", ".db")


@dataclasses.dataclass(frozen=True)
class FolderPatterns:
    """How pictures and masks are called, relative to the folder; `*` and `?` stay in one folder.

    Attributes:
      images: of the pictures.
      masks: of a picture's masks; `{stem}` is the picture's name without suffix. A file that
        fits several pictures belongs to the one of the longest name, and one that fits both
        patterns is a mask.
    """

    images: str = "images/*"
    masks: str = "masks/{stem}*"

    def __post_init__(self) -> None:
        if self.masks.count("{stem}") != 1:
            raise ConfigError(
                "patterns.masks", "does not name the picture once", "write {stem} for its name"
            )


def list_folder(directory: epath.Path, patterns: FolderPatterns) -> Listing:
    """Returns the cases that `pairs.csv` lists, or that the patterns find where there is none.

    Raises:
      DataError: the list is faulty, a file it names is absent, or there are no pairs.
      ConfigError: a pattern is not one.
    """
    paths = files_below(directory)
    pairs = directory / PAIRS
    if pairs.is_file():
        return list_pairs(directory, paths, pairs)
    return _match_patterns(directory, paths, patterns)


def _match_patterns(root: epath.Path, paths: list[epath.Path], patterns: FolderPatterns) -> Listing:
    visible = {
        path.relative_to(root).as_posix(): path for path in paths if not is_hidden(path, root)
    }
    is_image, is_mask = (
        re.compile(_expression(pattern))
        for pattern in (patterns.images, patterns.masks.replace("{stem}", "*"))
    )
    images = {
        name: path
        for name, path in visible.items()
        if is_image.fullmatch(name) and path.suffix.lower() not in _NO_PICTURE
    }
    candidates = {
        name: path
        for name, path in visible.items()
        if is_mask.fullmatch(name) and path.suffix.lower() in MASK_SUFFIXES
    }
    pictures = _pictures_by_stem(images, candidates)
    masks = _masks_by_stem(candidates, pictures, patterns.masks)
    taken = {path for own in masks.values() for path in own}
    pictures = {stem: path for stem, path in pictures.items() if path not in taken}
    check_not_empty(root, pictures, masks)
    for stem, own in masks.items():
        if stem not in pictures:
            raise DataError(own[0], "mask of a mask", "give patterns that tell masks from pictures")
    cases = [
        Case(
            example_id=stem,
            patient_id=None,
            source=SOURCE,
            image=pictures[stem],
            masks=tuple(MaskFile(path, Structure.LUNGS) for path in own),
            clinical=Clinical(),
        )
        for stem, own in masks.items()
    ]
    unlabelled = [path for stem, path in pictures.items() if stem not in masks]
    return make_listing(root, paths, cases, unlabelled, {})


def _pictures_by_stem(
    images: Mapping[str, epath.Path], candidates: Mapping[str, epath.Path]
) -> dict[str, epath.Path]:
    pictures: dict[str, epath.Path] = {}
    # What may be a mask goes last: it gives way to a picture of the same name.
    for name, path in sorted(images.items(), key=lambda item: item[0] in candidates):
        other = pictures.setdefault(stem_of(path), path)
        if other != path and name not in candidates:
            raise DataError(
                path, f"{other} has the same name", f"give them ids of their own in {PAIRS}"
            )
    return pictures


def _masks_by_stem(
    candidates: Mapping[str, epath.Path], pictures: Mapping[str, epath.Path], pattern: str
) -> dict[str, list[epath.Path]]:
    masks: dict[str, list[epath.Path]] = {}
    lengths = sorted({len(stem) for stem in pictures}, reverse=True)
    known = set(pictures.values())
    for name, path in candidates.items():
        stem = _picture_of(name, path, pictures, lengths, pattern)
        if stem is not None:
            masks.setdefault(stem, []).append(path)
        elif path not in known:
            raise DataError(path, "mask without its picture", "add the picture or remove the mask")
    return masks


def _expression(pattern: str) -> str:
    """Returns a pattern as a regular expression; wildcards of `fnmatch` would cross folders."""
    return re.escape(pattern).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")


def _picture_of(
    name: str,
    path: epath.Path,
    pictures: Mapping[str, epath.Path],
    lengths: Sequence[int],
    pattern: str,
) -> str | None:
    """Returns the longest stem of a picture that the mask's name fits; mask 10 is not 1's."""
    before, after = map(_expression, pattern.split("{stem}"))
    for length in lengths:
        for start in range(len(name) - length + 1):
            stem = name[start : start + length]
            if (
                stem in pictures
                and pictures[stem] != path
                and re.fullmatch(before, name[:start])
                and re.fullmatch(after, name[start + length :])
            ):
                return stem
    return None
