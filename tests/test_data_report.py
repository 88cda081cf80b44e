"""The page's figures are those of the records, and whoever reads it finds them."""

import collections
import html.parser
import json
import re
import shutil
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.geometry import fit_to_square
from tests.charts import bars_in
from tests.stored import example, pairs_in, read_split, rewrite, shard, write_records
from tfds_builder.contact_sheet import ContactSheet
from tfds_builder.data_report import ensure_data_report, main, write_data_report
from tfds_builder.data_report_charts import size_edges
from tfds_builder.data_report_figures import AGE_EDGES, Figures, Histogram, Look
from tfds_builder.data_report_page import page as page_of
from tfds_builder.duplicates import Example, Fingerprint, Fingerprints, Pair
from tfds_builder.splits import SPLITS

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
    """A page: its elements, its tables by title, its cards by label, its open tags at the end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = collections.defaultdict(list)
        self.elements: dict[str, list[dict]] = collections.defaultdict(list)
        self.source, self.text, self.open = text, "", []
        self._title = ""
        # Number, and whether it is a warning.
        self.cards = {
            label: (int(number), "warn" in kind)
            for kind, number, label in re.findall(
                r'class="card(.*?)".*?<b>(\d+)</b><span>(.*?)</span>', text
            )
        }
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.elements[tag].append(dict(attributes))
        if tag == "tr":
            self.tables[self._title].append([])
        if tag in ("td", "th"):
            self.tables[self._title][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] in ("h3", "caption"):
            self._title = data
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[self._title][-1][-1] += data

    def rows(self, title: str) -> dict[str, list[str]]:
        return {first: rest for first, *rest in self.tables[title][1:]}

    def attributes(self, name: str) -> list[str]:
        """The values of an attribute of any element."""
        return [x[name] for found in self.elements.values() for x in found if name in x]


def page_with(
    figures: Figures, pairs: Sequence[Pair] = (), sheet: ContactSheet | None = None
) -> Page:
    return Page(page_of("records", figures, pairs, None, sheet or ContactSheet(1)))


def figures_of(records: Sequence[dict], split: str = "train") -> Figures:
    figures = Figures(["train", "test"], 32)
    for record in records:
        figures.add(split, record, Look.at(record))
    return figures


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
    assert page.attributes("src")
    assert all(address.startswith("data:image/") for address in page.attributes("src"))


def test_links_lead_somewhere(folder, page):
    """Fault: a warning, or the large sheet, that cannot be followed."""
    links = page.attributes("href")
    assert "contact_sheet.png" in links
    for link in links:
        if link.startswith("#"):
            assert page.attributes("id").count(link[1:]) == 1
        else:
            assert (folder / "data_report" / link).is_file()


def test_a_screen_reader_finds_names_for_all(page):
    """Fault: ten charts of one name; cells without their column; images of unknown content."""
    names = [chart["aria-label"] for chart in page.elements["svg"] if "aria-hidden" not in chart]
    assert len(names) == len(set(names)) > 4
    assert all(image["alt"] for image in page.elements["img"])
    scopes = collections.Counter(cell["scope"] for cell in page.elements["th"])
    tables = page.tables.values()
    assert scopes["col"] == sum(len(rows[0]) for rows in tables)
    assert scopes["row"] == sum(len(rows) - 1 for rows in tables)
    assert len(page.elements["caption"]) == len(page.elements["table"]) > 3


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
    # Fault: sums among the sources that look like one more of them.
    bold = re.findall(r'<tr class="sum"><th[^>]*>(.*?)<', page.source)
    assert bold == ["all", "patients"]
    assert re.search(r"tr\.sum[^{}]*{ font-weight: [67]00", page.source)


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
    label = "pair alike across splits" if across == 1 else "pairs alike across splits"
    assert page.cards[label] == (across, across > 0)


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
    page = page_with(figures)
    shown = [size for size in range(1, 10) if f"source{size}, {size} records" in page.text]
    assert shown == [3, 4, 5, 6, 7, 8, 9]
    assert page.rows("Records")["source1"] == ["1", "1"]
    # Fault: whoever looks for them in the charts takes them for absent.
    assert "2 smaller sources are not drawn: source1, source2." in page.text
    assert "not drawn" not in page_with(figures_of([example()])).text


def leak(split: str) -> Pair:
    return Pair("alike", 0.9, Example("one", "1", "train"), Example("other", "2", split))


@pytest.mark.parametrize(("source", "warned"), [(b"phantom", False), (b"montgomery", True)])
def test_generated_images_that_look_alike_are_no_warning(source: bytes, warned: bool):
    """Fault: a newcomer warned of a leak among images that the package has drawn."""
    page = page_with(figures_of([example(source=source)]), [leak("test"), leak("train")])
    ((label, (number, warning)),) = ((x, y) for x, y in page.cards.items() if "alike" in x)
    assert (number, warning) == (1, warned)
    assert label.startswith("pair alike")
    # Fault: a number that is no warning, and nobody says why.
    assert ("generated" in label) is not warned


@pytest.mark.parametrize(("empty", "named", "more"), [(1, 1, ""), (20, 20, ""), (23, 20, "3 more")])
def test_masks_without_lung_are_named(empty: int, named: int, more: str):
    """Fault: a warning about some image among ten thousand."""
    blank = np.zeros((32, 32, 1), np.uint8)
    records = [example(100), *(example(number, mask=blank) for number in range(empty))]
    page = page_with(figures_of(records))
    label = "mask without lung" if empty == 1 else "masks without lung"
    assert page.cards[label] == (empty, True)
    told = page.text[page.text.index("Masks without lung") : page.text.index("Distributions")]
    assert re.findall(r"example \d+", told) == [f"example {number}" for number in range(named)]
    assert re.findall(r"\d+ more", told) == ([more] if more else [])


def test_no_mask_without_lung_is_no_warning():
    """Fault: a red zero, or a link to nothing."""
    page = page_with(figures_of([example()]))
    assert page.cards["masks without lung"] == (0, False)
    assert "#without-lung" not in page.attributes("href")


@pytest.mark.parametrize(("lowest", "highest"), [(512, 513), (431, 768), (300, 4892), (7, 90000)])
def test_bins_of_sizes_fit_their_range(lowest: int, highest: int):
    """Fault: all images of a set in one bar of a chart that reaches to 5000 pixels."""
    edges = size_edges(lowest, highest)
    assert edges[0] <= lowest <= edges[1]
    assert edges[-2] <= highest < edges[-1]
    assert len(edges) - 1 <= 27
    assert len(edges) - 1 >= min(10, highest - lowest + 1)


def test_one_size_is_said_in_words():
    """Fault: a chart of one bar, of which only the last source or split is seen."""
    two = [example(0), example(1, original_size=np.array([300, 400], np.int32))]
    page = page_with(figures_of(two))
    assert "300 pixels in every image" in page.text
    charts = [x["aria-label"] for x in page.elements["svg"] if "aria-label" in x]
    assert [x.partition(":")[0] for x in charts if "original image" in x] == [
        "Width by source",
        "Width by split",
    ]


def test_charts_are_of_their_groups_in_the_units_of_their_axes():
    """Fault: lungs of 0.3 % of the field; sources in a chart of splits; unknown spacings of 0."""
    other = example(1, source=b"shenzhen", mask=np.zeros((32, 32, 1), np.uint8))
    unknown = {"spacing_source": b"none", "spacing_mm": np.zeros(2, np.float32)}
    page = page_with(figures_of([example(), other | unknown]))
    # 2 * 16 * 10 of 32 * 32 pixels are 31 %.
    charts = {
        "Lung area by source": {"montgomery": [[30, 32, 100]], "shenzhen": [[0, 2, 100]]},
        "Lung area by split": {"train": [[0, 2, 50], [30, 32, 50]]},
        "Spacing by what it was measured on": {"calibrated": [[0.2, 0.225, 100]]},
    }
    for title, wanted in charts.items():
        lines = bars_in(page.source, title)
        assert lines.keys() == wanted.keys()
        for name, bars in wanted.items():
            assert lines[name] == pytest.approx(np.array(bars), rel=0.01, abs=0.02)
    assert page.rows("Spacing of the rows")["none"] == ["1", "", "", ""]


def test_the_table_of_the_sheet_tells_what_is_where():
    """Fault: row and column exchanged; an image with lung said to have none."""
    sheet = ContactSheet(10)
    for number in range(10):
        image = np.full((32, 32, 1), 7000 * number, np.uint16)
        record = example(number, image=image)
        if number == 3:
            record["mask"] = np.zeros_like(record["mask"])
        sheet.add(number, "train", record)
    rows = page_with(figures_of([example()]), sheet=sheet).tables["Images on the sheet"][1:]
    assert {row[2] for row in rows} == {f"example {number}" for number in range(10)}
    pixels = np.asarray(sheet.image(), int)
    for row, column, name, *_, mask in rows:
        # Between the lungs, in the middle of its tile.
        grey = pixels[152 + 272 * (int(row) - 1), 124 + 236 * (int(column) - 1), 0]
        assert f"example {round(grey * 257 / 7000)}" == name
        assert mask == ("no lung" if name == "example 3" else "lung")


def test_what_is_known_of_no_patient_is_left_out():
    """Fault: a table with nothing but "unknown"."""
    page = page_with(figures_of([example()]))
    assert "Findings" in page.tables
    assert "Sex" not in page.tables
    assert page_with(figures_of([example(sex=b"F")])).rows("Sex")["train"] == ["1"]
    unknown = page_with(figures_of([example(finding=b"")]))
    assert "Findings" not in unknown.tables
    assert "not known" in unknown.text


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
