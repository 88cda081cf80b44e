"""The page's figures are those of the records."""

import collections
import html.parser
import json
import re
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.geometry import fit_to_square
from tests.stored import example, pairs_in, read_split, rewrite, shard, write_records
from tfds_builder.contact_sheet import ContactSheet
from tfds_builder.data_report import ensure_data_report, main, write_data_report
from tfds_builder.data_report_figures import AGE_EDGES, Figures, Histogram, Look
from tfds_builder.data_report_page import page as page_of
from tfds_builder.duplicates import Fingerprint, Fingerprints
from tfds_builder.splits import SPLITS
from tfds_builder.svg_charts import bar_chart, histogram_chart

BUILD_REPORT = {
    "counts": {"taken": 2, "left out": 2, "bad": 1},
    "files": [
        {"file": "a.png", "status": "taken", "reason": ""},
        {"file": "b.png", "status": "taken", "reason": ""},
        {"file": "c.dcm", "status": "left out", "reason": "a lateral view"},
        {"file": "d.dcm", "status": "left out", "reason": "a lateral view"},
        {"file": "e.dcm", "status": "bad", "reason": "<cut short> & lost"},
    ],
}


class Page(html.parser.HTMLParser):
    """The tables of a page by their panel's title, and its open tags at the end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = collections.defaultdict(list)
        self.text, self.open, self.addresses = "", [], []
        self._title = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag == "tr":
            self.tables[self._title].append([])
        if tag in ("td", "th"):
            self.tables[self._title][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] == "h3":
            self._title = data
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[self._title][-1][-1] += data

    def rows(self, title: str) -> dict[str, list[str]]:
        return {first: rest for first, *rest in self.tables[title][1:]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = write_records(tmp_path_factory.mktemp("report"))
    (folder / "build_report.json").write_text(json.dumps(BUILD_REPORT))
    write_data_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(folder) -> Page:
    return Page((folder / "data_report" / "index.html").read_text())


@pytest.fixture(scope="module")
def records(folder) -> list[dict]:
    return [record | {"split": split} for split in SPLITS for record in read_split(folder, split)]


def test_page_needs_no_other_file_and_its_tags_match(page):
    """Fault: a page that is blank once it is sent to a colleague."""
    assert page.open == []
    assert page.addresses
    assert all(address.startswith("data:image/") for address in page.addresses)


def test_counts_are_those_of_the_records(page, records):
    """Fault: splits or sources mixed up between records and page."""
    counts = collections.Counter((record["source"], record["split"]) for record in records)
    rows = page.rows("Records")
    for source in ("montgomery", "shenzhen"):
        source_counts = [counts[source, split] for split in SPLITS]
        assert [int(cell) for cell in rows[source]] == [*source_counts, sum(source_counts)]
    assert rows["all"][-1] == str(len(records))
    patients = {split: set() for split in SPLITS}
    for record in records:
        patients[record["split"]].add(record["patient_id"])
    assert [int(cell) for cell in rows["patients"][:3]] == [len(patients[x]) for x in SPLITS]


def test_sizes_lung_and_intensity_are_those_of_the_records(page, records):
    """Fault: padding counted as image, or another group's figures."""
    rows = page.rows("Size, lung and intensity")
    for name, row in rows.items():
        group_records = [
            record for record in records if name in (record["split"], record["source"])
        ]
        heights = [record["original_size"][0] for record in group_records]
        low, high = min(heights), max(heights)
        assert row[0] == (f"{low}" if low == high else f"{low} to {high}")
        shares, means = [], []
        for record in group_records:
            fit = fit_to_square(*map(int, record["field"][2:]), 64)
            inside = np.s_[fit.top : fit.top + fit.height, fit.left : fit.left + fit.width]
            shares.append(record["mask"][inside].mean())
            means.append(record["image"][inside].mean() / 65535)
        assert row[2] == f"{np.mean(shares):.1%}"
        assert row[3] == f"{np.mean(means):.3f}"
    assert {"montgomery", "shenzhen", *SPLITS} == rows.keys()


def test_findings_and_reasons_are_those_of_their_files(page, records):
    """Fault: a reason shown for other files, or markup taken from it."""
    counts = collections.Counter((record["source"], record["finding"]) for record in records)
    for source in ("montgomery", "shenzhen"):
        wanted = [counts[source, finding] for finding in ("abnormal", "normal")]
        assert [int(cell) for cell in page.rows("Findings")[source]] == wanted
    assert page.tables["Why not taken"][1:] == [
        ["left out", "a lateral view", "2"],
        ["bad", "<cut short> & lost", "1"],
    ]


def test_duplicates_are_those_that_are_found(folder, page):
    """Fault: the file and the page tell of other pairs than the search."""
    pairs = pairs_in(folder)
    content = json.loads((folder / "data_report" / "duplicates.json").read_text())
    assert content["images"] == 20
    told = [(x["kind"], x["first"], x["second"], x["across_splits"]) for x in content["pairs"]]
    assert told == [
        (pair.kind, vars(pair.first), vars(pair.second), pair.across_splits) for pair in pairs
    ]
    across = sum(pair.across_splits for pair in pairs)
    assert f"{across}pairs alike across splits" in page.text


def test_phantoms_that_look_alike_are_no_alarm(tmp_path, capsys):
    """Fault: a newcomer warned of a leak among images that the package has drawn."""
    folder = write_records(tmp_path, size=32)
    twin = read_split(folder, "train")[0]["image"]
    rewrite(folder, "test", lambda records: [records[0] | {"image": twin}, *records[1:]])
    write_data_report(folder)
    assert "look alike (correlation up to " in capsys.readouterr().err
    # Fault: said once, when records are built, and never again to those who train on them.
    ensure_data_report(folder)
    assert "look alike (correlation up to " in capsys.readouterr().err
    for split in SPLITS:
        rewrite(
            folder, split, lambda records: [record | {"source": "phantom"} for record in records]
        )
    write_data_report(folder)
    assert "look alike" not in capsys.readouterr().err
    # The page has them all the same.
    assert json.loads((folder / "data_report" / "duplicates.json").read_text())["pairs"]


def test_the_same_pixels_alone_are_told(tmp_path, capsys):
    """Fault: a traceback for copies in two splits where nothing else is alike."""
    folder = write_records(tmp_path, size=32)
    write_data_report(folder)
    path = folder / "data_report" / "duplicates.json"
    pair = {"kind": "same pixels", "correlation": 1.0, "across_splits": True}
    path.write_text(json.dumps({"generated": False, "pairs": [pair]}))
    capsys.readouterr()
    ensure_data_report(folder)
    assert "1 with the same pixels, 0 that look alike. If they" in capsys.readouterr().err


def test_absent_build_report_leaves_its_part_out(tmp_path):
    """Fault: records of an older build cannot be looked at; an old figure remains."""
    folder = write_records(tmp_path, size=32)
    (folder / "build_report.json").unlink()
    write_data_report(folder)
    text = (folder / "data_report" / "index.html").read_text()
    assert "Source files" not in text
    rewrite(folder, "test", lambda records: records)
    assert main(["data_report", str(folder)]) == 0


@pytest.mark.parametrize("content", ["{", "[]", '{"files": [{}]}', '{"files": [3]}'])
def test_broken_build_report_is_one_line(folder, content, tmp_path, capsys):
    """Fault: a traceback, or figures of half a file."""
    for name in ("dataset_info.json", "features.json"):
        (tmp_path / name).write_text((folder / name).read_text())
    (tmp_path / "build_report.json").write_text(content)
    with pytest.raises(DataError, match="build_report"):
        write_data_report(tmp_path)
    assert main(["data_report", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_report_that_cannot_be_written_stops_nothing(folder, tmp_path, capsys):
    """Fault: training refused on records that are whole, in a folder that is only to be read."""
    records = tmp_path / "records"
    shutil.copytree(folder, records, ignore=shutil.ignore_patterns("data_report"))
    # For any user, unlike rights, which do not bind root.
    (records / "data_report").write_text("a file where the folder goes")
    ensure_data_report(records)
    assert capsys.readouterr().err.startswith("No report on the records: ")
    assert main(["data_report", str(records)]) == 1


def test_damaged_records_point_to_verify(tmp_path):
    """Fault: figures of the records that could be read, as if they were all."""
    folder = write_records(tmp_path, size=32)
    shard(folder, "val").unlink()
    with pytest.raises(DataError, match=r"tfds_builder\.verify"):
        write_data_report(folder)
    assert not (folder / "data_report").exists()


def test_a_record_that_no_build_writes_points_to_verify(tmp_path):
    """Fault: a traceback where a record can be read and its figures make no sense."""
    folder = write_records(tmp_path, size=32)
    rewrite(folder, "val", lambda records: [record | {"field": [0, 0, 0, 0]} for record in records])
    with pytest.raises(
        DataError, match=r"val split is damaged \(ZeroDivisionError\).*tfds_builder\.verify"
    ):
        write_data_report(folder)


def test_sex_age_sides_and_spacing_are_counted_where_they_exist():
    """Fault: a newborn of age 0 taken for one of unknown age; side bits counted as more lung."""
    figures = Figures(["train", "test"], 32)
    ages = [27.0, 35.0, 0.0, np.nan, 0.18]
    for number, age in enumerate(ages):
        sex = b"" if number == 2 else b"F"
        record = example(number, sex=sex, age_years=np.float32(age))
        figures.add("train", record, Look.at(record))
    figures.add("test", example(9), Look.at(example(9)))
    train = figures.by_split["train"]
    assert dict(train.sex) == {"F": 4, "unknown": 1}
    assert train.age.counts[:4].tolist() == [2, 0, 1, 1]
    assert train.age.number == 4
    assert dict(figures.by_split["test"].sex) == {"unknown": 1}
    assert train.lung_share.mean == pytest.approx(2 * 16 * 10 / 32**2)
    assert train.mask_sum[10, 5] == 5
    assert train.mask_sum[0, 0] == 0
    assert train.intensity.counts.sum() == pytest.approx(5)
    spacing = figures.spacing["calibrated"]
    assert spacing.number == 6
    assert spacing.lowest == pytest.approx(0.2)


def test_the_largest_sources_are_drawn():
    """Fault: of more sources than colours those of a few records drawn, and the main ones not."""
    figures = Figures(["train"], 32)
    for size in range(1, 10):
        record = example(source=f"source{size}".encode())
        for _ in range(size):
            figures.add("train", record, Look.at(record))
    page = Page(page_of("records", figures, [], None, Image.new("RGB", (8, 8))))
    shown = [size for size in range(1, 10) if f"source{size}, {size} records" in page.text]
    assert shown == [3, 4, 5, 6, 7, 8, 9]
    assert page.rows("Records")["source1"] == ["1", "1"]


def test_values_beyond_the_edges_stay_in_the_end_bins():
    """Fault: outliers, the very thing to be seen, dropped from the chart."""
    histogram = Histogram(AGE_EDGES)
    for value in (-3.0, 0.0, 100.0, 250.0):
        histogram.add(value)
    assert histogram.counts[[0, -1]].tolist() == [2, 2]
    assert (histogram.lowest, histogram.highest) == (-3, 250)


def test_no_image_is_kept():
    """Fault: memory that grows with every record until a large set ends in a crash."""
    kept = Figures(["train"], 32), ContactSheet(8), Fingerprints()
    alive = []
    for number in range(8):
        record = example(number)
        alive += [weakref.ref(record["image"]), weakref.ref(record["mask"])]
        kept[0].add("train", record, Look.at(record))
        kept[1].add(number, "train", record)
        kept[2].add("train", record, Fingerprint.of(record))
    del record
    assert [reference() for reference in alive] == [None] * 16


def test_charts_have_the_shares():
    """Fault: bars or lines of another height than their values."""
    chart = histogram_chart(
        np.array([0.0, 1, 2]), {"a<b": np.array([3.0, 1]), "no": np.zeros(2)}, "x"
    )
    assert "a&lt;b" in chart
    assert "no</span>" not in chart
    assert "80%" not in chart
    assert "60%" in chart
    bars = bar_chart({"taken": 10, "bad": 5}, "files")
    widths = [float(part.partition('"')[0]) for part in bars.split('width="')[1:]]
    assert widths[0] == 2 * widths[1]
    assert "no values" in bar_chart({}, "files")
    assert "no values" in histogram_chart(np.array([0.0, 1]), {}, "x")


@pytest.mark.parametrize("low", [0.0, 0.3])
def test_ticks_lie_within_the_axis(low: float):
    """Fault: a label beyond the end of its axis."""
    chart = histogram_chart(np.array([low, 1, 2.2]), {"a": np.array([3.0, 1])}, "x")
    # Up to 1.05 x 75 %, and from the first edge to the last.
    shares, values = ["0%", "20%", "40%", "60%"], ["0.5", "1", "1.5", "2"]
    assert re.findall(r">(-?[\d.]+%?)</text>", chart) == [*shares, *["0"] * (low == 0), *values]
