"""The files to segment, and what their results are called."""

import os
import shutil
import subprocess
import sys
import unicodedata

import pytest
from etils import epath

from lungseg_jax.errors import DataError
from lungseg_jax.prediction.inputs import name_files
from tests.test_find_files import AS_ANYBODY
from tests.untrained import touch


def test_names_do_not_collide(tmp_path):
    """Fault: the mask of one patient over that of another whose file has the same name."""
    touch(tmp_path, "a/1.png", "b/1.png", "b/1.dcm", "b_1.png", "1.2.840.113", "c.png")
    named = name_files([tmp_path], epath.Path(tmp_path / "out"), ())
    assert len({one.name for one in named}) == len(named) == 6
    names = {one.label: one.name for one in named}
    assert names["c.png"] == "c"
    assert names["1.2.840.113"] == "1.2.840.113"
    assert names["a/1.png"] == "a_1.png"


def test_names_differ_on_any_file_system(tmp_path):
    """Fault: on a share that ignores case or accents' encoding, a mask over another patient's."""
    composed, decomposed = (unicodedata.normalize(form, "Köln.png") for form in ("NFC", "NFD"))
    alike = ("a/IM01.dcm", "b/im01.dcm", "c/x", "C/X", "C/x", f"d/{composed}", f"e/{decomposed}")
    touch(tmp_path, *alike, "b/IM01.DCM", "Straße.png", "STRASSE", "Own.PNG")
    named = name_files([tmp_path], epath.Path(tmp_path / "out"), ())
    # As APFS, ext4 and NTFS compare names, in turn.
    for compared in (
        lambda name: unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold()),
        lambda name: unicodedata.normalize("NFKD", name).casefold(),
        str.upper,
    ):
        assert len({compared(one.mask) for one in named}) == len(named) == 11
    assert {one.label: one.name for one in named}["Own.PNG"] == "Own"


def test_names_and_labels_of_several_folders_do_not_collide(tmp_path):
    """Fault: two rows of the table that say the same, or a number that another file's name has."""
    touch(tmp_path, "a/1.png", "a/scan", "a/scan-2", "b/1.png", "b/scan", "a_scan")
    named = name_files(
        [tmp_path / "a", tmp_path / "b", tmp_path / "a_scan"], epath.Path(tmp_path / "out"), {}
    )
    assert len({one.name for one in named}) == len({one.label for one in named}) == 6


def test_labels_of_several_folders_say_which(tmp_path):
    """Fault: a table in which nobody finds the folder of a file again."""
    touch(tmp_path, "a/1.png", "b/2.png")
    named = name_files([tmp_path / "a", tmp_path / "b"], epath.Path(tmp_path / "out"), ())
    assert {one.label: one.name for one in named} == {"a/1.png": "1", "b/2.png": "2"}
    (alone,) = name_files([tmp_path / "a"], epath.Path(tmp_path / "out"), ())
    assert alone.label == "1.png"


def test_folders_of_one_name_are_told_apart(tmp_path):
    """Fault: rows of two patients that both say images/1.png."""
    touch(tmp_path, "p1/images/1.png", "p2/images/1.png", "p2/images/2.png")
    folders = [tmp_path / "p1" / "images", tmp_path / "p2" / "images"]
    named = name_files(folders, epath.Path(tmp_path / "out"), ())
    assert {one.label: one.name for one in named} == {
        "p1/images/1.png": "p1_images_1.png",
        "p2/images/1.png": "p2_images_1.png",
        "p2/images/2.png": "2",
    }


def test_results_of_files_above_the_working_directory_are_not_hidden(tmp_path, monkeypatch):
    """Fault: a mask named after `../1.png` that is hidden; one file given twice in two rows."""
    touch(tmp_path, "1.png", "here/1.png")
    monkeypatch.chdir(tmp_path / "here")
    given = ["../1.png", "1.png", tmp_path / "here" / "1.png"]
    named = name_files(given, epath.Path("out"), ())
    assert {one.label: one.name for one in named} == {"../1.png": "1.png", "1.png": "1.png-2"}


@pytest.mark.parametrize("folder", [".".join(["1234567"] * 8), "я" * 50])
def test_long_names_leave_room_for_endings(tmp_path, folder: str):
    """Fault: folders named by UIDs, joined to a name that no file may have, end the run.

    Four of them have more than 255 bytes, though those of two bytes a letter have fewer letters.
    """
    folders = "/".join([folder] * 4)
    touch(tmp_path, f"{folders}/1-1.dcm", f"{folders}/x/1-1.dcm")
    for one in name_files([tmp_path], epath.Path(tmp_path / "out"), ()):
        (tmp_path / f"{one.name}_overlay.png").touch()


def test_names_joined_from_folders_fit_into_encrypted_ones(tmp_path):
    """Fault: no results on a network disk whose folders are encrypted, which halves names."""
    uid = ".".join(["1234567"] * 6)
    touch(tmp_path, f"{uid}/{uid}/{uid}/IM1", f"{uid}/{uid}/IM1", f"{uid}{uid}{uid}.dcm")
    named = name_files([tmp_path], epath.Path(tmp_path / "out"), (), ("probabilities",))
    joined = [one.name for one in named if one.label.endswith("IM1")]
    assert all(len(f"{name}_probabilities.png") <= 143 for name in joined)
    # A name that need not be joined is the file's own.
    assert uid * 3 in {one.name for one in named}


def test_references_elsewhere_are_images_like_others(tmp_path):
    """Fault: a file left out without a word because it is called what results are."""
    touch(tmp_path, "1_mask.png")
    (one,) = name_files([tmp_path], epath.Path(tmp_path), ())
    assert one.label == "1_mask.png"


def test_the_output_of_a_training_run_is_not_segmented(tmp_path):
    """Fault: outlines of lungs, drawn over a chest, segmented as if they were a radiograph."""
    run = ("run/config.json", "run/checkpoints/10/x", "run/overlays/best.png")
    touch(tmp_path, "a.png", "config.json", *run)
    output = epath.Path(tmp_path / "out")
    assert [file.label for file in name_files([tmp_path], output, ())] == ["a.png", "config.json"]
    with pytest.raises(DataError, match="holds no file to segment"):
        name_files([tmp_path / "run"], output, ())
    # By its own name a file is taken for what the user says it is.
    best = tmp_path / "run" / "overlays" / "best.png"
    assert len(name_files([best], output, ())) == 1


def test_nothing_to_do_is_an_error(tmp_path):
    """Fault: a mistyped folder ends with exit code 0."""
    with pytest.raises(DataError, match="no such file or folder"):
        name_files([tmp_path / "absent"], epath.Path(tmp_path), ())
    with pytest.raises(DataError, match="holds no file"):
        name_files([tmp_path], epath.Path(tmp_path / "out"), ())


def test_a_link_and_the_folder_above_it_are_followed(tmp_path, monkeypatch):
    """Fault: of two files one is lost, because `link/..` is taken for the folder with the link."""
    touch(tmp_path, "here/1.png", "there/1.png", "there/below/2.png")
    (tmp_path / "here" / "link").symlink_to(tmp_path / "there" / "below")
    monkeypatch.chdir(tmp_path / "here")
    given = ["1.png", "link/../1.png", "link/2.png", str(tmp_path / "there/below/2.png")]
    files = name_files(given, epath.Path(tmp_path / "out"), ())
    assert [file.label for file in files] == ["1.png", "link/../1.png", "link/2.png"]


NAME_AND_OPEN = """
import sys
from etils import epath
from lungseg_jax.imaging.files import why_no_file
from lungseg_jax.prediction.inputs import name_files
for file in name_files([sys.argv[1]], epath.Path("nowhere"), ()):
    print(file.label, why_no_file(file.path))
"""


@pytest.mark.skipif(bool(AS_ANYBODY) and not shutil.which("setpriv"), reason="root, no setpriv")
def test_a_closed_folder_is_one_of_the_files(tmp_path):
    """Fault: one folder that nobody may enter stops the segmentation of an archive."""
    touch(tmp_path, "a.png", "closed/b.png")
    run = [*AS_ANYBODY, sys.executable, "-c", NAME_AND_OPEN, os.fspath(tmp_path)]
    try:
        (tmp_path / "closed").chmod(0)
        found = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    finally:
        (tmp_path / "closed").chmod(0o700)
    assert found.splitlines() == ["a.png ", "closed Permission denied"]
