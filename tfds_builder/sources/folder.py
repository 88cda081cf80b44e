"""Any folder: images are paired with masks by a list, `pairs.csv`, or by patterns of names."""

import collections
import dataclasses
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from etils import epath

from lungseg_jax.config import DataConfig
from lungseg_jax.errors import ConfigError, DataError
from lungseg_jax.imaging.find_files import files_below, is_hidden, stem_of
from lungseg_jax.imaging.structures import Structure
from tfds_builder.sources.layout import (
    MASK_SUFFIXES,
    SEG_SUFFIX,
    Case,
    Clinical,
    Listing,
    MaskFile,
    make_listing,
)
from tfds_builder.sources.pairs import PAIRS, SOURCE, list_pairs

# Files that lie beside images; a DICOM file may have any other suffix, or none.
_NO_IMAGE = (".txt", ".csv", ".json", ".xml", ".md", ".pdf", ".docx", ".xlsx", ".zip", ".db")


# Most folders named if nothing matches.
MOST_FOLDERS = 4

_WILDCARDS = ("*", "?")
# Not where a number, a word or a UID continues; a second number may name another image.
_NO_START = r"(?<![^\W_])(?<!\d[-_. ])"
_NO_END = r"(?![^\W_]|[-_. ]\d)"

_SIDES = {
    frozenset({"left"}): Structure.LEFT_LUNG,
    frozenset({"right"}): Structure.RIGHT_LUNG,
}
# At the start of a word, as in left_mask, leftMask and maskLeft; not in brightness.
_SIDE = re.compile(r"(?<![a-zA-Z])(?:[lL]eft|[rR]ight|LEFT|RIGHT)|(?<=[a-z])(?:Left|Right)")
_NO_LUNG = re.compile("heart|clavic", re.IGNORECASE)
_OTHER_PAIRING = (
    f"list images and masks in {PAIRS}, with the columns left_mask and right_mask "
    "for one of each lung, or give a pattern of the lungs' masks alone"
)


@dataclasses.dataclass(frozen=True)
class FolderPatterns:
    """Names of images and masks, relative to the folder; `*` and `?` stay within one folder.

    Attributes:
      images: pattern of the images' names.
      masks: pattern of the names of an image's masks; `{stem}` is the image's name without suffix.
        A wildcard next to it does not continue its number or word: `1*` fits `1_mask`, not `10` or
        `1_2`. A file that fits several images belongs to the one with the longest name, and one
        that fits both patterns is a mask. If there are two masks, their names or their folders'
        names say `left` and `right`, the patient's.
    """

    images: str = DataConfig.images
    masks: str = DataConfig.masks

    def __post_init__(self) -> None:
        if self.masks.count("{stem}") != 1:
            raise ConfigError(
                "data.masks", "must contain {stem} once", "write {stem} for the image's name"
            )


def list_folder(directory: epath.Path, patterns: FolderPatterns) -> Listing:
    """Returns the cases that `pairs.csv` lists, or that the patterns find if there is no list.

    Raises:
      DataError: the list is faulty, a file it names is absent, there are no pairs, a mask is of
        another format or lacks its image, or an image's masks are not one of both lungs or one of
        each lung.
      ConfigError: a pattern is invalid, or patterns are given beside a list.
    """
    paths = files_below(directory)
    pairs = directory / PAIRS
    # Whatever it is, because patterns must not take the place of a list that cannot be read.
    if os.path.lexists(pairs):
        if patterns != FolderPatterns():
            fault = f"{patterns.images} and {patterns.masks} are given, and {pairs} lists the pairs"
            remedy = "leave the patterns out, or rename the list"
            raise ConfigError("data.images, data.masks", fault, remedy)
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
    matched = {
        name: path
        for name, path in visible.items()
        if is_image.fullmatch(name) and path.suffix.lower() not in _NO_IMAGE
    }
    named = {
        name: path
        for name, path in visible.items()
        if is_mask.fullmatch(name) and path.suffix.lower() not in _NO_IMAGE
    }
    candidates = {
        name: path
        for name, path in named.items()
        if path.suffix.lower() in (*MASK_SUFFIXES, SEG_SUFFIX)
    }
    images = _images_by_stem(matched, candidates)
    # If there are no images, the fault is not that each mask lacks its image.
    masks = _masks_by_stem(candidates, images, patterns.masks) if images else {}
    taken = {path for mask_paths in masks.values() for path in mask_paths.values()}
    images = {stem: path for stem, path in images.items() if path not in taken}
    others = {name: path for name, path in named.items() if name not in {*candidates, *matched}}
    _check_formats(others, images, masks, patterns.masks)
    if not images or not masks:
        raise DataError(
            root,
            f"data.images={patterns.images} matches {len(images)} images, and "
            f"data.masks={patterns.masks} the masks of {len(masks)}, among {_describe(visible)}",
            "change the folder or the patterns, such as data.images='CXR_png/*' and "
            "data.masks='masks/*/{stem}*'; masks are PNG, GIF or DICOM SEG (.dcm) files",
        )
    for stem, mask_paths in masks.items():
        if stem not in images:
            raise DataError(
                min(mask_paths.values()),
                "its image is a mask too",
                "give patterns that tell masks from images",
            )
    cases = [
        Case(
            example_id=stem,
            patient_id=None,
            source=SOURCE,
            image=images[stem],
            masks=_lungs(stem, mask_paths),
            clinical=Clinical(),
        )
        for stem, mask_paths in masks.items()
    ]
    unlabelled = [path for stem, path in images.items() if stem not in masks]
    return make_listing(root, paths, cases, unlabelled, {})


def _describe(names: Iterable[str]) -> str:
    """Returns where most of the files that may be images or masks are, and how many."""
    folders = collections.Counter(
        str(PurePosixPath(name).parent) for name in names if not name.lower().endswith(_NO_IMAGE)
    )
    if not folders:
        return "no files"
    most = folders.most_common(MOST_FOLDERS)
    return ", ".join(f"{count} in {folder}" for folder, count in most)


def _images_by_stem(
    matched: Mapping[str, epath.Path], candidates: Mapping[str, epath.Path]
) -> dict[str, epath.Path]:
    images: dict[str, epath.Path] = {}
    # Files that may be masks come last, because they give way to an image of the same name.
    for name, path in sorted(matched.items(), key=lambda item: item[0] in candidates):
        other = images.setdefault(stem_of(path), path)
        if other != path and name not in candidates:
            raise DataError(
                path, f"{other} has the same name", f"give them ids of their own in {PAIRS}"
            )
    return images


def _masks_by_stem(
    candidates: Mapping[str, epath.Path], images: Mapping[str, epath.Path], pattern: str
) -> dict[str, dict[str, epath.Path]]:
    """Returns each image's masks by the rest of their names without the image's name."""
    masks: dict[str, dict[str, epath.Path]] = {}
    lengths = sorted({len(stem) for stem in images}, reverse=True)
    known = set(images.values())
    for name, path in candidates.items():
        fit = _image_of(name, path, images, lengths, pattern)
        if fit is not None:
            stem, rest = fit
            masks.setdefault(stem, {})[rest] = path
        elif path not in known:
            fault = f"mask without its image, by data.masks={pattern}"
            remedy = f"add the image, remove the mask, change the pattern, or write {PAIRS}"
            raise DataError(path, fault, remedy)
    return masks


def _check_formats(
    others: Mapping[str, epath.Path],
    images: Mapping[str, epath.Path],
    masks: Collection[str],
    pattern: str,
) -> None:
    """Refuses files of another format that are named as the masks of images without any.

    These images would count as unlabelled.

    Raises:
      DataError: there is such a file.
    """
    lengths = sorted({len(stem) for stem in images}, reverse=True)
    for name, path in others.items():
        fit = _image_of(name, path, images, lengths, pattern)
        if fit is not None and fit[0] not in masks:
            raise DataError(
                path,
                "mask that is neither PNG, GIF nor DICOM SEG (.dcm)",
                "save masks as 8-bit grey PNG, or move what is no mask elsewhere",
            )


def _expression(pattern: str) -> str:
    """Returns a pattern as a regular expression; `fnmatch` wildcards would cross folders."""
    return re.escape(pattern).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")


def _image_of(
    name: str,
    path: epath.Path,
    images: Mapping[str, epath.Path],
    lengths: Sequence[int],
    pattern: str,
) -> tuple[str, str] | None:
    """Returns the longest stem of an image that the mask's name fits, and the name without it."""
    before, after = pattern.split("{stem}")
    is_before = re.compile(_expression(before) + (_NO_START if before[-1:] in _WILDCARDS else ""))
    is_after = re.compile((_NO_END if after[:1] in _WILDCARDS else "") + _expression(after))
    for length in lengths:
        for start in range(len(name) - length + 1):
            stem = name[start : start + length]
            if (
                stem in images
                and images[stem] != path
                and is_before.fullmatch(name[:start])
                and is_after.fullmatch(name[start + length :])
            ):
                return stem, f"{name[:start]}\0{name[start + length :]}"
    return None


def _lungs(stem: str, mask_paths: Mapping[str, epath.Path]) -> tuple[MaskFile, ...]:
    """Returns an image's masks, given by the rest of their names without the image's name.

    Raises:
      DataError: they are not one mask of both lungs or one of each lung.
    """
    for rest, path in mask_paths.items():
        if _NO_LUNG.search(rest):
            raise DataError(path, "mask of another structure than the lungs", _OTHER_PAIRING)
    sides = {
        path: frozenset(map(str.lower, _SIDE.findall(rest))) for rest, path in mask_paths.items()
    }
    # A name that says both sides is that of a mask of both lungs.
    masks = tuple(
        MaskFile(path, _SIDES.get(said, Structure.LUNGS)) for path, said in sorted(sides.items())
    )
    structures = sorted(mask.structure for mask in masks)
    if structures == [Structure.LUNGS] or structures == sorted(_SIDES.values()):
        return masks
    if len(masks) == 1:
        raise DataError(masks[0].path, "mask of one lung without the other's", "add the other mask")
    raise DataError(
        masks[0].path,
        f"one of {len(masks)} masks of {stem}, which are not left and right",
        _OTHER_PAIRING,
    )
