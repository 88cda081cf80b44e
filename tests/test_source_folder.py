"""Folders of one's own: a list of pairs, or patterns of names."""

import os
import re

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from lungseg_jax.errors import ConfigError, DataError
from lungseg_jax.imaging.structures import Structure
from tests.layouts import (
    FOLDER,
    assert_every_file_is_listed_once,
    reason_of,
    write_tree,
)
from tfds_builder.sources import FolderPatterns, list_source

OVERLAPPING = FolderPatterns("*", "{stem}*")


def pairs_of(listing) -> dict[str, list[str]]:
    return {
        case.example_id: sorted(mask.path.name for mask in case.masks) for case in listing.cases
    }


def test_patterns(tmp_path):
    """Fault: images without a mask used, or a patient assumed where the header may tell."""
    listing = list_source("folder", write_tree(tmp_path, FOLDER))
    assert pairs_of(listing) == {"a": ["a.png"], "b": ["b_left.png", "b_right.gif"]}
    assert all(case.patient_id is None for case in listing.cases)
    assert {case.source for case in listing.cases} == {"folder"}
    assert {mask.path.name: mask.structure for case in listing.cases for mask in case.masks} == {
        "a.png": Structure.LUNGS,
        "b_left.png": Structure.LEFT_LUNG,
        "b_right.gif": Structure.RIGHT_LUNG,
    }
    assert [path.name for path in listing.unlabelled] == ["c.dcm"]
    assert reason_of(listing) == {"notes.txt": "not an image"}
    assert_every_file_is_listed_once(listing, tmp_path)


@pytest.mark.parametrize(
    ("patterns", "names", "expected"),
    [
        (
            FolderPatterns("*.png", "{stem}_mask.png"),
            ("1.png", "1_mask.png", "10.png", "10_mask.png"),
            {"1": ["1_mask.png"], "10": ["10_mask.png"]},
        ),
        (
            FolderPatterns(),
            ("images/1.dcm", "images/10.dcm", "masks/1_x.png", "masks/10.png"),
            {"1": ["1_x.png"], "10": ["10.png"]},
        ),
        (
            FolderPatterns("*/image.dcm", "{stem}/*/lung?.png"),
            ("p/image.dcm", "image/q/lung1.png", "image/q/r/lung3.png"),
            {"image": ["lung1.png"]},
        ),
        (
            FolderPatterns("*.*", "m/{stem}.png"),
            ("1.2.840.1", "1.2.840.2", "m/1.2.840.1.png", "m/1.2.840.2.png"),
            {"1.2.840.1": ["1.2.840.1.png"], "1.2.840.2": ["1.2.840.2.png"]},
        ),
        (
            FolderPatterns(),
            ("images/a[1].png", "images/a1.png", "masks/a[1].png"),
            {"a[1]": ["a[1].png"]},
        ),
        (
            FolderPatterns("*", "{stem}.png"),
            ("x.tif", "x.png"),
            {"x": ["x.png"]},
        ),
    ],
)
def test_names_that_look_alike(tmp_path, patterns, names, expected):
    """Fault: mask 10 given to image 1, UIDs cut at their last dot, brackets as wildcards."""
    listing = list_source("folder", write_tree(tmp_path, names), patterns)
    assert pairs_of(listing) == expected
    assert_every_file_is_listed_once(listing, tmp_path)


@given(st.sets(st.text("ab1_[", min_size=1, max_size=4), min_size=1, max_size=6))
@settings(max_examples=40)
def test_masks_named_by_the_whole_stem_go_to_their_image(tmp_path_factory, stems):
    """Fault: any two names of which one begins like the other."""
    folder = tmp_path_factory.mktemp("folder")
    names = tuple(f"images/{stem}.dcm" for stem in stems) + tuple(f"masks/{s}.png" for s in stems)
    listing = list_source("folder", write_tree(folder, names))
    assert pairs_of(listing) == {stem: [f"{stem}.png"] for stem in stems}


def test_two_images_of_one_name_need_a_list(tmp_path):
    """Fault: one of the two overwrites the other's record."""
    names = ("x/1.dcm", "y/1.dcm", "masks/1.png")
    with pytest.raises(DataError, match=r"has the same name; .* pairs\.csv"):
        list_source("folder", write_tree(tmp_path, names), FolderPatterns(images="?/*"))


def test_a_mask_without_its_image_is_refused(tmp_path):
    """Fault: a half-copied folder gives a smaller data set."""
    with pytest.raises(DataError, match=r"z\.png: mask without its image"):
        list_source("folder", write_tree(tmp_path, (*FOLDER, "masks/z.png")))


def test_a_mask_that_no_pattern_pairs_names_the_pattern(tmp_path):
    """Fault: of mask_1.png, whose image is there, the user is only told to add the image."""
    names = ("images/1.png", "masks/mask_1.png")
    with pytest.raises(DataError, match=r"by data\.masks=masks/\{stem\}\*; .*change the pattern"):
        list_source("folder", write_tree(tmp_path, names))


@pytest.mark.parametrize("mask", ["b.jpg", "b_mask.tif", "b.bmp", "b.nii.gz"])
def test_masks_of_other_formats_are_refused(tmp_path, mask):
    """Fault: images whose masks are JPEG files counted as unlabelled, and left out unnoticed."""
    names = ("images/a.png", "images/b.png", f"masks/{mask}")
    refusal = rf"/{re.escape(mask)}: mask that is neither PNG, GIF nor DICOM SEG"
    for also in ((), ("masks/a.png",)):
        with pytest.raises(DataError, match=refusal):
            list_source("folder", write_tree(tmp_path, (*names, *also)))


def test_other_formats_beside_masks_are_left_alone(tmp_path):
    """Fault: a preview of a mask, or a photograph of a plate, stops the build."""
    names = ("images/a.png", "images/b.png", "masks/a.png", "masks/a.jpg", "masks/plates.jpg")
    assert pairs_of(list_source("folder", write_tree(tmp_path, names))) == {"a": ["a.png"]}
    names = ("1.jpg", "1_lateral.jpg", "2.jpg", "2_mask.png")
    listing = list_source("folder", write_tree(tmp_path / "one", names), OVERLAPPING)
    assert pairs_of(listing) == {"2": ["2_mask.png"]}


def test_a_name_that_is_not_utf_8_is_refused(tmp_path):
    """Fault: a build of hours that ends in a traceback for the name of one old file."""
    names = [os.fsdecode(b"images/p\xe9.png"), os.fsdecode(b"masks/p\xe9.png")]
    with pytest.raises(DataError, match="its name is not UTF-8; rename it"):
        list_source("folder", write_tree(tmp_path, (*FOLDER, *names)))


def test_nothing_that_fits(tmp_path):
    """Fault: an empty data set where the patterns have a typing error."""
    with pytest.raises(DataError, match=r"matches 0 images, and data\.masks=.* the masks of 0"):
        list_source("folder", write_tree(tmp_path, FOLDER), FolderPatterns("scans/*", "m/{stem}"))


def test_patterns_that_do_not_tell_masks_from_images(tmp_path):
    """Fault: a KeyError where a file is the mask of one image and the image of another mask."""
    with pytest.raises(DataError, match="its image is a mask too; give patterns"):
        list_source("folder", write_tree(tmp_path, ("a", "a_b.png", "a_b_c.png")), OVERLAPPING)


def test_a_pattern_without_the_stem_is_refused():
    """Fault: every mask belongs to every image."""
    with pytest.raises(ConfigError, match=r"write \{stem\}"):
        FolderPatterns(masks="masks/*")


@pytest.mark.parametrize(
    ("patterns", "names", "orphan"),
    [
        (FolderPatterns(), ("images/1.png", "masks/1_mask.png", "masks/10_mask.png"), "10_mask"),
        (FolderPatterns(), ("images/case.png", "masks/case.png", "masks/cases.png"), "cases"),
        (FolderPatterns(), ("images/1.2.8", "masks/1.2.8.png", "masks/1.2.8.3.png"), "1.2.8.3"),
        (FolderPatterns(), ("images/p0.png", "masks/p0.png", "masks/p0_2.png"), "p0_2"),
        (
            FolderPatterns(masks="masks/*{stem}.png"),
            ("images/1.png", "masks/of_1.png", "masks/of_11.png"),
            "of_11",
        ),
        (FolderPatterns(masks="masks/*{stem}.png"), ("images/1.png", "masks/2_1.png"), "2_1"),
    ],
)
def test_a_mask_whose_image_is_missing_goes_to_no_other(tmp_path, patterns, names, orphan):
    """Fault: masks of cases 1 and 10, joined, for case 1, where image 10 was not copied."""
    with pytest.raises(DataError, match=rf"/{orphan}\.png: mask without its image"):
        list_source("folder", write_tree(tmp_path, names), patterns)


def test_a_letter_that_the_pattern_names_may_follow_the_stem(tmp_path):
    """Fault: a pattern without a wildcard is exact, yet what it names is refused."""
    names = ("images/1.png", "masks/1mask.png")
    listing = list_source(
        "folder", write_tree(tmp_path, names), FolderPatterns(masks="masks/{stem}mask.png")
    )
    assert pairs_of(listing) == {"1": ["1mask.png"]}


@pytest.mark.parametrize(
    ("left", "right", "pattern"),
    [
        ("masks/1_left_lung.png", "masks/1_right_lung.png", "masks/{stem}*"),
        ("masks/leftMask/1.png", "masks/rightMask/1.png", "masks/*/{stem}.png"),
        ("masks/1_maskLeft.png", "masks/1_maskRight.png", "masks/{stem}_*"),
        ("masks/LEFT-1.gif", "masks/RIGHT-1.gif", "masks/*{stem}.gif"),
    ],
)
def test_names_say_the_side(tmp_path, left, right, pattern):
    """Fault: sides lost or changed, or a side read from the image's own name."""
    names = ("images/1.png", "images/right_2.png", left, right, left.replace("1", "right_2"))
    of_second_image = left.replace("1", "right_2"), right.replace("1", "right_2")
    folder = write_tree(tmp_path, (*names, of_second_image[1]))
    listing = list_source("folder", folder, FolderPatterns(masks=pattern))
    found = {
        mask.path.relative_to(folder).as_posix(): mask.structure
        for case in listing.cases
        for mask in case.masks
    }
    assert found == dict.fromkeys((left, of_second_image[0]), Structure.LEFT_LUNG) | dict.fromkeys(
        (right, of_second_image[1]), Structure.RIGHT_LUNG
    )


@pytest.mark.parametrize(
    ("masks", "fault"),
    [
        (("1.png", "1_x.png"), "one of 2 masks of 1, which are not left and right"),
        (("1_left.png", "1_left_2.png"), "one of 2 masks of 1"),
        (("1.png", "1_left.png", "1_right.png"), "one of 3 masks of 1"),
        (("1_bright.png", "1_left.png"), "one of 2 masks of 1"),
        (("1_heart.png",), "another structure than the lungs"),
        (("1_left_clavicle.png", "1_right_clavicle.png"), "another structure than the lungs"),
    ],
)
def test_masks_that_are_not_the_lungs_need_a_list(tmp_path, masks, fault):
    """Fault: heart and lung, or two readers' outlines, joined to one mask without a word."""
    names = ("images/1.png", *(f"masks/{name}" for name in masks))
    with pytest.raises(DataError, match=rf"{fault}.*; .*pairs\.csv.* left_mask and right_mask"):
        list_source("folder", write_tree(tmp_path, names))


def test_one_lung_alone_is_refused(tmp_path):
    """Fault: the left lung taken for both."""
    names = ("images/1.png", "masks/1_left.png")
    with pytest.raises(DataError, match="mask of one lung without the other's"):
        list_source("folder", write_tree(tmp_path, names))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["set/images/a.png", "set/images/b.png", "set/masks/a.png", "set/notes.txt"],
         "the masks of 0, among 2 in set/images, 1 in set/masks; change"),
        (["a.dcm", ".DS_Store"], "the masks of 0, among 1 in .; change"),
        ([], "the masks of 0, among no files; change"),
    ],
)  # fmt: skip
def test_where_the_files_are_is_told_where_nothing_matches(tmp_path, names, said):
    """Fault: a folder given that is one too high, and a message that does not help to see it."""
    write_tree(tmp_path, [*names, "empty.txt"])
    with pytest.raises(DataError, match=re.escape(said)):
        list_source("folder", tmp_path, FolderPatterns())
