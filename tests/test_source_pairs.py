"""Lists of images and masks."""

import os

import pytest

from lungseg_jax.errors import ConfigError, DataError
from lungseg_jax.imaging.structures import Structure
from tests.layouts import FOLDER, assert_every_file_is_listed_once, reason_of, write_tree
from tfds_builder.sources import Clinical, FolderPatterns, list_source

PAIRS = """\ufeffimage, left_mask, right_mask, mask, id, patient, source, finding, sex, age
images/a.dcm,,,masks/a.png,,,,,,
images/b.png,masks/b_left.png,masks/b_right.gif,,second,p7,clinic,abnormal,F,0.5
images/c.dcm,,,,,,,,,
"""


def test_a_list_of_pairs(tmp_path):
    """Fault: cells shifted by a column, sides changed, or patterns used beside the list."""
    (write_tree(tmp_path, FOLDER) / "pairs.csv").write_text(PAIRS)
    listing = list_source("folder", tmp_path)
    first, second = listing.cases
    assert (first.example_id, first.patient_id, first.source) == ("a", None, "folder")
    assert (first.clinical.sex, first.clinical.finding) == ("", "unknown")
    assert first.clinical.age_years is None
    assert (second.example_id, second.patient_id, second.source) == ("second", "p7", "clinic")
    assert (first.patient_is_secret, second.patient_is_secret) == (False, True)
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
        ("", "line 1: must name image and mask .*; name the columns"),
        ("image;mask\n", "line 1: unknown column 'image;mask'; .* with commas"),
        ("image,left_mask\n", "line 1: must name image and mask"),
        ("image,mask,mask\n", "line 1: a column twice"),
        ('image,mask\n"images/a.dcm,masks/a.png\n' + 140_000 * "x", "line .*field larger"),
        ("image,mask\rimages/z.dcm,masks/a.png\r", "line 2, column image: no file images/z.dcm"),
        ("image,mask\nim\0ages/a.dcm,masks/a.png\n", "line 2, column image: holds a NUL"),
        ("image,mask\nimages/a.dcm\n", "line 2: not 2 cells"),
        ("image,mask\nimages/a.dcm,masks/a.png,x\n", "line 2: not 2 cells"),
        ("image,mask\n\n,masks/a.png\n", "line 3, column image: is empty"),
        ("image,mask\nimages/z.dcm,masks/a.png\n", "line 2, column image: no file images/z.dcm"),
        ("image,mask\nimages\\a.dcm,masks\\a.png\n", r"column image: no file .*; write / in place"),
        ("image,mask\nimages/a.dcm,/masks/a.png\n", "line 2, column mask: leads out"),
        ("image,mask\nimages/../../a.dcm,masks/a.png\n", "line 2, column image: leads out"),
        ("image,mask\nimages/a.dcm,notes.txt\n", "line 2, column mask: neither PNG, GIF"),
        (
            "image,left_mask,right_mask\nimages/b.png,masks/b_left.png,\n",
            "line 2, column right_mask: is empty though",
        ),
        (
            "image,mask,id\nimages/a.dcm,masks/a.png,x\nimages/b.png,masks/b_left.png,x\n",
            "line 3, column id: duplicate id",
        ),
        (
            "image,mask\nimages/a.dcm,masks/a.png\nimages/b.png,masks/a.png\n",
            "line 3, column mask: already used in line 2",
        ),
        (
            "image,mask,id\nimages/a.dcm,masks/a.png,x\nimages/a.dcm,masks/b_left.png,y\n",
            "line 3, column image: already used in line 2",
        ),
        (
            "image,left_mask,right_mask\nimages/a.dcm,masks/a.png,masks/a.png\n",
            "line 2, column right_mask: already used in line 2",
        ),
        (
            "image,mask,id\nimages/a.dcm,masks/a.png,\x1b[31mx\n",
            "line 2, column id: holds a control character",
        ),
        (
            'image,mask,source\nimages/a.dcm,masks/a.png,"x\ny"\n',
            "line 3, column source: holds a control character",
        ),
        ("image,mask,age\nimages/a.dcm,masks/a.png,nan\n", "line 2, column age: no age"),
        ("image,mask,age\nimages/a.dcm,masks/a.png,old\n", "line 2, column age: no age"),
        ("image,mask,sex\nimages/a.dcm,masks/a.png,woman\n", "line 2, column sex: .*F, M"),
        ("image,mask,finding\nimages/a.dcm,masks/a.png,TB\n", "line 2, column finding: .*normal"),
        ("image,mask\nimages/a.dcm,\n", "1 images and 0 masks"),
    ],
)
def test_faults_of_a_list_are_named_by_line_and_column(tmp_path, pairs, message):
    """Fault: a traceback, or an image paired with a file that it does not belong to."""
    (write_tree(tmp_path, FOLDER) / "pairs.csv").write_text(pairs)
    with pytest.raises(DataError, match=message):
        list_source("folder", tmp_path)


def test_ids_may_have_blanks_and_signs_of_every_script(tmp_path):
    """Fault: an archive refused for a blank that its script, or a spreadsheet, writes."""
    name = "患者\u3000一 a\u00a0b\u200dc"
    (write_tree(tmp_path, FOLDER) / "pairs.csv").write_text(
        f"image,mask,id\nimages/a.dcm,masks/a.png,{name}\n"
    )
    assert [case.example_id for case in list_source("folder", tmp_path).cases] == [name]


def test_images_of_one_name_are_called_by_their_paths(tmp_path):
    """Fault: an export in which every image is called IM0001 refused, or one taken for another."""
    folder = write_tree(tmp_path, ("st0/IM1", "st1/IM1", "st2/IM2", "0.png", "1.png", "2.png"))
    lines = ["image,mask", "./st0/IM1,0.png", "st1/IM1,1.png", "st2/IM2,2.png"]
    (folder / "pairs.csv").write_text("\n".join(lines))
    cases = list_source("folder", folder).cases
    assert {case.example_id: case.masks[0].path.name for case in cases} == {
        "st0/IM1": "0.png", "st1/IM1": "1.png", "IM2": "2.png",
    }  # fmt: skip
    # Fault: another name for an image, because there is one that needs none.
    lines = ["image,mask,id", "st0/IM1,0.png,", "st1/IM1,,", "st2/IM2,2.png,x"]
    (folder / "pairs.csv").write_text("\n".join(lines))
    assert [case.example_id for case in list_source("folder", folder).cases] == ["IM1", "x"]


def test_a_list_in_another_encoding_is_refused(tmp_path):
    """Fault: a patient's name in Latin-1 becomes that of another, or a file that does not exist."""
    (write_tree(tmp_path, FOLDER) / "pairs.csv").write_bytes(
        b"image,mask\nb\xf6b.png,masks/a.png\n"
    )
    with pytest.raises(DataError, match=r"pairs\.csv: is not UTF-8; save it"):
        list_source("folder", tmp_path)


def test_paths_by_way_of_a_link(tmp_path):
    """Fault: a folder with two names is searched by one, and the list knows it by the other."""
    folder = write_tree(tmp_path, ("scans/a.dcm", "masks/a.png"))
    (folder / "images").symlink_to(folder / "scans")
    (folder / "pairs.csv").write_text("image,mask\nimages/a.dcm,masks/a.png\n")
    assert [case.example_id for case in list_source("folder", folder).cases] == ["a"]


def test_a_list_that_is_not_a_regular_file_is_refused(tmp_path):
    """Fault: a pipe without a writer stops the listing for ever, or patterns replace the list."""
    os.mkfifo(write_tree(tmp_path, FOLDER) / "pairs.csv")
    with pytest.raises(DataError, match=r"pairs\.csv: not a regular file"):
        list_source("folder", tmp_path)


def test_a_list_and_patterns_are_one_too_many(tmp_path):
    """Fault: images of an old list trained on, where a command names others by a pattern."""
    (write_tree(tmp_path, FOLDER) / "pairs.csv").write_text(PAIRS)
    with pytest.raises(ConfigError, match=r"scans/\* and masks.* given, and .*pairs\.csv lists"):
        list_source("folder", tmp_path, FolderPatterns(images="scans/*"))
