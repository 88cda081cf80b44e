"""What people read of a build."""

import hashlib

import pytest
from etils import epath

from lungseg_jax.file_digest import FileDigest
from lungseg_jax.imaging.radiograph import ReadOptions
from tests.images import chest, png_bytes
from tfds_builder.build_report import (
    MAX_KINDS,
    FileEntry,
    digest_of_images,
    file_entries,
    read_digests,
    summary,
    write_report,
)
from tfds_builder.convert_case import ConvertSettings, convert_case
from tfds_builder.sources import list_source


@pytest.mark.parametrize(
    "names",
    [("patient scan 1.dcm", "patient scan two.dcm"), ("IM0A", "IM0B"), ("1.2.840.a", "1.2.840.b")],
)
def test_one_reason_is_counted_once_whatever_the_names(names: tuple[str, str]):
    """Fault: a line a file, so that what most files lack is not seen among 30 lines."""
    entries = [FileEntry(name, "bad", f"{name}: pixels do not decode") for name in names]
    reasons, _, _ = summary(entries).partition("bad file")
    assert ["bad:", "pixels", "do", "not", "decode", "2"] in map(str.split, reasons.splitlines())


def test_images_are_told_from_files():
    """Fault: 600 taken where there are 200 images, each with two masks."""
    names = ("1.dcm", "1_left.png", "1_right.png", "2.dcm", "2_left.png", "2_right.png")
    entries = [FileEntry(name, "taken", example_id=name[0]) for name in names]
    entries.append(FileEntry("3.dcm", "left out", "a lateral view", example_id="3"))
    first = summary(entries).splitlines()[0]
    assert first.startswith("Images in the records: 2 ")


def test_notes_and_reasons_without_a_file_stay_whole():
    """Fault: words before a colon taken for the name of a file."""
    note = "stored mirrored according to the header: turned upright"
    text = summary(
        [FileEntry("a.dcm", "taken", notes=(note,)), FileEntry("b.txt", "unused", "not an image")]
    )
    assert note in text
    assert "unused: not an image" in text


def test_bad_files_beyond_the_table_are_counted():
    """Fault: 33 files more in the report, where the table leaves out three."""
    count = MAX_KINDS + 3
    entries = [FileEntry(f"{i}.dcm", "bad", f"{i}.dcm: is empty") for i in range(count)]
    *rows, last = summary(entries).splitlines()
    assert last.split()[:2] == ["3", "more"]
    assert sum(row.split()[1:] == ["is", "empty"] for row in rows) == MAX_KINDS


def test_each_file_has_its_own_digest(tmp_path):
    """Fault: masks under their image's checksum, so that nobody can tell which were used."""
    image, mask = chest(40, 36, 0)
    contents = {
        "images/a.png": png_bytes(image),
        "masks/a.png": png_bytes(mask),
        "pairs.csv": b"image,mask\nimages/a.png,masks/a.png\n",
    }
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    listing = list_source("folder", tmp_path)
    settings = ConvertSettings(32, b"key", ReadOptions(frontal_only=False))
    outcomes = [convert_case(case, settings)[0] for case in listing.cases]
    report = epath.Path(tmp_path) / "report"
    write_report(report, file_entries(listing, outcomes, {"train": ["a"]}))
    assert read_digests(report) == {
        name: FileDigest(hashlib.sha256(content).hexdigest(), len(content))
        for name, content in contents.items()
    }


def test_images_are_known_by_what_they_hold():
    """Fault: copies taken for other images, or changed images for the same ones."""
    entry = {"status": "taken", "split": "test", "example_id": "a"}
    image = entry | {"file": "images/a.png", "sha256": "1"}
    left, right = (
        entry | {"file": f"{side}/a.png", "sha256": sha256}
        for side, sha256 in (("left", "2"), ("right", "3"))
    )
    table = {"file": "pairs.csv", "status": "read", "sha256": "4"}
    unused = {"file": "b.png", "status": "unlabelled", "sha256": None}

    def digest(*files):
        return digest_of_images({"files": list(files)})

    same = digest(image, left, right, table)
    assert digest(right, table, unused, left, image) == same
    others = [
        digest(image, left, table),
        digest(image, left | {"sha256": "5"}, right, table),
        # The masks of the two lungs, exchanged.
        digest(image, left | {"sha256": "3"}, right | {"sha256": "2"}, table),
        digest(image, left, right, table | {"sha256": "5"}),
        digest(*(one | {"split": "train"} for one in (image, left, right)), table),
        digest(*(one | {"example_id": "b"} for one in (image, left, right)), table),
    ]
    assert len({same, *others}) == 7
    # Fault: reports that do not tell what files held, all with one checksum.
    assert digest(image | {"sha256": None}, left) is None
    assert digest({"file": "images/a.png", "status": "taken"}) is None
