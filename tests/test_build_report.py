"""What people read of a build."""

import pytest

from tfds_builder.build_report import FileEntry, summary


@pytest.mark.parametrize(
    "names",
    [("patient scan 1.dcm", "patient scan two.dcm"), ("IM0A", "IM0B"), ("1.2.840.a", "1.2.840.b")],
)
def test_one_reason_is_counted_once_whatever_the_names(names: tuple[str, str]):
    """Fault: a line a file, so that what most files lack is not seen among 30 lines."""
    entries = [FileEntry(name, "bad", f"{name}: pixels do not decode") for name in names]
    reasons, _, _ = summary(entries).partition("bad file")
    assert ["bad:", "pixels", "do", "not", "decode", "2"] in map(str.split, reasons.splitlines())


def test_pictures_are_told_from_files():
    """Fault: 600 taken where there are 200 pictures, each with two masks."""
    names = ("1.dcm", "1_left.png", "1_right.png", "2.dcm", "2_left.png", "2_right.png")
    entries = [FileEntry(name, "taken", example_id=name[0]) for name in names]
    entries.append(FileEntry("3.dcm", "left out", "a lateral view", example_id="3"))
    first = summary(entries).splitlines()[0]
    assert first.startswith("Pictures in the records: 2 ")


def test_notes_and_reasons_without_a_file_stay_whole():
    """Fault: words before a colon taken for the name of a file."""
    note = "stored mirrored according to the header: turned upright"
    text = summary(
        [FileEntry("a.dcm", "taken", notes=(note,)), FileEntry("b.txt", "unused", "not a picture")]
    )
    assert note in text
    assert "unused: not a picture" in text
