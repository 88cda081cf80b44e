"""Folders of one's own: a list of pairs, or patterns of names."""

import math
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from lungseg_jax.errors import ConfigError, DataError
from lungseg_jax.imaging.structures import Structure
from tests.layouts import assert_every_file_is_listed_once, reason_of, write_files
from tfds_builder.sources import Clinical, FolderPatterns, list_source

FILES = (
    "images/a.dcm",
    "images/b.png",
    "images/c.dcm",
    "masks/a.png",
    "masks/b_left.png",
    "masks/b_right.gif",
    "notes.txt",
)


def write_tree(folder: Path, names: tuple[str, ...] = FILES, pairs: str | None = None) -> Path:
    for name in names:
        write_files((folder / name).parent, {Path(name).name: b""})
    if pairs is not None:
        (folder / "pairs.csv").write_text(pairs)
    return folder


def pairs_of(listing) -> dict[str, list[str]]:
    return {
        case.example_id: sorted(mask.path.name for mask in case.masks) for case in listing.cases
    }


def test_patterns(tmp_path):
    """Fault: pictures without a mask used, or a patient assumed where the header may tell."""
    listing = list_source("folder", write_tree(tmp_path))
    assert pairs_of(listing) == {"a": ["a.png"], "b": ["b_left.png", "b_right.gif"]}
    assert all(case.patient_id is None for case in listing.cases)
    assert {case.source for case in listing.cases} == {"folder"}
    assert {mask.structure for case in listing.cases for mask in case.masks} == {Structure.LUNGS}
    assert [path.name for path in listing.unlabelled] == ["c.dcm"]
    assert reason_of(listing) == {"notes.txt": "not a picture"}
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
            ("images/1.dcm", "images/10.dcm", "masks/1.png", "masks/10.png", "masks/1_x.png"),
            {"1": ["1.png", "1_x.png"], "10": ["10.png"]},
        ),
        (
            FolderPatterns("*/image.dcm", "{stem}/*/lung?.png"),
            ("p/image.dcm", "image/q/lung1.png", "image/q/lung2.png", "image/q/r/lung3.png"),
            {"image": ["lung1.png", "lung2.png"]},
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
    """Fault: mask 10 given to picture 1, UIDs cut at their last dot, brackets as wildcards."""
    listing = list_source("folder", write_tree(tmp_path, names), patterns)
    assert pairs_of(listing) == expected
    assert_every_file_is_listed_once(listing, tmp_path)


@given(st.sets(st.text("ab1_[", min_size=1, max_size=4), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_masks_named_by_the_whole_stem_go_to_their_picture(tmp_path_factory, stems):
    """Fault: any two names of which one begins like the other."""
    folder = tmp_path_factory.mktemp("folder")
    names = tuple(f"images/{stem}.dcm" for stem in stems) + tuple(f"masks/{s}.png" for s in stems)
    listing = list_source("folder", write_tree(folder, names))
    assert pairs_of(listing) == {stem: [f"{stem}.png"] for stem in stems}


def test_two_pictures_of_one_name_need_a_list(tmp_path):
    """Fault: one of the two overwrites the other's record."""
    names = ("x/1.dcm", "y/1.dcm", "masks/1.png")
    with pytest.raises(DataError, match=r"has the same name; .* pairs\.csv"):
        list_source("folder", write_tree(tmp_path, names), FolderPatterns(images="?/*"))


def test_a_mask_without_its_picture_is_refused(tmp_path):
    """Fault: a half-copied folder gives a smaller data set."""
    with pytest.raises(DataError, match=r"z\.png: mask without its picture"):
        list_source("folder", write_tree(tmp_path, (*FILES, "masks/z.png")))


def test_nothing_that_fits(tmp_path):
    """Fault: an empty data set where the patterns have a typing error."""
    with pytest.raises(DataError, match="0 pictures and 0 masks"):
        list_source("folder", write_tree(tmp_path), FolderPatterns("pictures/*", "m/{stem}"))


def test_a_pattern_without_the_stem_is_refused():
    """Fault: every mask belongs to every picture."""
    with pytest.raises(ConfigError, match=r"write \{stem\}"):
        FolderPatterns(masks="masks/*")


PAIRS = """\ufeffimage, left_mask, right_mask, mask, id, patient, source, finding, sex, age
images/a.dcm,,,masks/a.png,,,,,,
images/b.png,masks/b_left.png,masks/b_right.gif,,second,p7,clinic,abnormal,F,0.5
images/c.dcm,,,,,,,,,
"""


def test_a_list_of_pairs(tmp_path):
    """Fault: cells shifted by a column, sides changed, or patterns used beside the list."""
    listing = list_source("folder", write_tree(tmp_path, pairs=PAIRS))
    first, second = listing.cases
    assert (first.example_id, first.patient_id, first.source) == ("a", None, "folder")
    assert (first.clinical.sex, first.clinical.finding) == ("", "unknown")
    assert math.isnan(first.clinical.age_years)
    assert (second.example_id, second.patient_id, second.source) == ("second", "p7", "clinic")
    assert second.clinical == Clinical("F", 0.5, "abnormal", "")
    structures = {mask.path.name: mask.structure for mask in (*first.masks, *second.masks)}
    assert structures == {
        "a.png": Structure.LUNGS,
        "b_left.png": Structure.LEFT_LUNG,
        "b_right.gif": Structure.RIGHT_LUNG,
    }
    assert [path.name for path in listing.unlabelled] == ["c.dcm"]
    assert reason_of(listing)["pairs.csv"] == "list of pairs"
    assert listing.root / "pairs.csv" in listing.files()
    assert_every_file_is_listed_once(listing, tmp_path)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("", "line 1: no columns image and mask; name the columns"),
        ("image;mask\n", "line 1: unknown column 'image;mask'; .* with commas"),
        ("image,left_mask\n", "line 1: no columns"),
        ("image,mask,mask\n", "line 1: a column twice"),
        ("image,mask\nimages/a.dcm\n", "line 2: not 2 cells"),
        ("image,mask\nimages/a.dcm,masks/a.png,x\n", "line 2: not 2 cells"),
        ("image,mask\n\n,masks/a.png\n", "line 3, column image: is empty"),
        ("image,mask\nimages/z.dcm,masks/a.png\n", "line 2, column image: no file images/z.dcm"),
        ("image,mask\nimages/a.dcm,/masks/a.png\n", "line 2, column mask: leads out"),
        ("image,mask\nimages/../../a.dcm,masks/a.png\n", "line 2, column image: leads out"),
        ("image,mask\nimages/a.dcm,images/c.dcm\n", "line 2, column mask: neither PNG nor GIF"),
        (
            "image,left_mask,right_mask\nimages/b.png,masks/b_left.png,\n",
            "line 2, column right_mask: is empty though",
        ),
        (
            "image,mask,id\nimages/a.dcm,masks/a.png,x\nimages/b.png,masks/b_left.png,x\n",
            "line 3, column id: an id for the second time",
        ),
        (
            "image,mask\nimages/a.dcm,masks/a.png\nimages/b.png,masks/a.png\n",
            "line 3, column mask: a file of line 2 again",
        ),
        (
            "image,mask,id\nimages/a.dcm,masks/a.png,x\nimages/a.dcm,masks/b_left.png,y\n",
            "line 3, column image: a file of line 2 again",
        ),
        (
            "image,left_mask,right_mask\nimages/a.dcm,masks/a.png,masks/a.png\n",
            "line 2, column right_mask: a file of line 2 again",
        ),
        ("image,mask,age\nimages/a.dcm,masks/a.png,nan\n", "line 2, column age: no age"),
        ("image,mask,age\nimages/a.dcm,masks/a.png,old\n", "line 2, column age: no age"),
        ("image,mask,sex\nimages/a.dcm,masks/a.png,woman\n", "line 2, column sex: .*F, M"),
        ("image,mask,finding\nimages/a.dcm,masks/a.png,TB\n", "line 2, column finding: .*normal"),
        ("image,mask\nimages/a.dcm,\n", "1 pictures and 0 masks"),
    ],
)
def test_faults_of_a_list_are_named_by_line_and_column(tmp_path, pairs, message):
    """Fault: a traceback, or a picture paired with a file that it does not belong to."""
    write_tree(tmp_path, pairs=pairs)
    with pytest.raises(DataError, match=message):
        list_source("folder", tmp_path)
