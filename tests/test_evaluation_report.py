"""Tables and rankings of an evaluation."""

import csv
import json
import math
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
from etils import epath

from lungseg_jax import evaluation_report
from lungseg_jax.imaging.overlay import with_words
from lungseg_jax.metrics import ImageMetrics


def row(
    name: str, dice: float, source: str = "a", *, pixels: tuple[int, int] = (9, 8), **more: float
) -> ImageMetrics:
    figures = {"iou": dice, "hd95_px": 1.0, "assd_px": 1.0, "surface_dice": dice} | more
    predicted, reference = pixels
    return ImageMetrics(
        name, source, dice, predicted_px=predicted, reference_px=reference,
        **{"height": 9, "width": 8} | figures,
    )  # fmt: skip


ROWS = [
    row("x", 0.5), row("y", 0.9, "b"), row("z", 0.7),
    row("w", math.nan, hd95_px=math.nan, pixels=(0, 0)),
]  # fmt: skip


def test_ranks_leave_out_images_without_figures():
    """Fault: NaN sorted to the top or the bottom of the ranking."""
    assert evaluation_report.best_median_worst(ROWS) == {"best": 1, "median": 2, "worst": 0}
    assert evaluation_report.best_median_worst(ROWS[3:]) == {}


@pytest.mark.parametrize(("count", "shown"), [(1, 0), (4, 0), (5, 1), (9, 3), (40, 11)])
def test_the_next_worst_are_shown_from_the_worst_up(count: int, shown: int):
    """Fault: an image twice, good images called bad ones, or the worst out of order."""
    rows = [row(f"{place}", place / 100) for place in range(count)]
    found = evaluation_report.images_to_show(rows)
    next_worst = [found[f"worst_{place:02}"] for place in range(2, shown + 2)]
    assert next_worst == list(range(1, shown + 1))
    assert len(found) == shown + 3
    assert found["median"] not in next_worst


def test_a_total_miss_is_the_worst():
    """Fault: lungs that were not found at all left out of the ranking, and never shown."""
    rows = [row("x", 0.5), row("y", 0.0, pixels=(0, 8)), row("z", 0.9)]
    assert evaluation_report.best_median_worst(rows) == {"best": 2, "median": 0, "worst": 1}


def test_csv_has_the_fixed_columns_and_empty_cells_for_nan(tmp_path):
    """Fault: `nan` in a table that spreadsheets read as text; columns in another order."""
    evaluation_report.write_split(epath.Path(tmp_path), "test", ROWS)
    with (tmp_path / "eval" / "test.csv").open() as file:
        table = list(csv.reader(file))
    assert table[0] == [
        "id", "source", "patient", "finding", "dice", "iou", "hd95_px", "assd_px", "surface_dice",
        "hd95_percent", "assd_percent", "hd95_mm", "assd_mm", "surface_dice_mm", "precision",
        "recall",
        "predicted_px", "reference_px", "height", "width",
    ]  # fmt: skip
    # By id, so that a person finds an image: records are shuffled.
    assert [cells[0] for cells in table[1:]] == ["w", "x", "y", "z"]
    assert table[1][:5] == ["w", "a", "", "", ""]
    assert table[2][-4:] == ["9", "8", "9", "8"]


def test_sides_have_columns_where_a_row_has_them(tmp_path):
    """Fault: sides that are measured and not written, or empty columns in every other table."""
    rows = [row("x", 0.5, dice_right=0.25), row("y", 0.9, dice_right=0.75, dice_left=0.5)]
    summary = evaluation_report.write_split(epath.Path(tmp_path), "test", rows)
    with (tmp_path / "eval" / "test.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [(cells["dice_right"], cells["dice_left"]) for cells in table] == [
        ("0.25", ""), ("0.75", "0.5"),
    ]  # fmt: skip
    assert (summary["dice_right"], summary["dice_left"]) == (0.5, 0.5)


def test_worst_twentieth_of_cross_entropy_is_its_largest():
    """Fault: a loss ranked like Dice, whose best images would pass for its worst."""
    rows = [row(str(number), 0.5, cross_entropy=number / 100) for number in range(101)]
    summary = evaluation_report.summary_of(rows)
    assert summary["cross_entropy"] == pytest.approx(0.5)
    assert summary["spread"]["cross_entropy"]["worst_twentieth"] == pytest.approx(0.95)


def test_summary_has_each_source_and_is_strict_json(tmp_path):
    """Fault: NaN in JSON, or sources averaged as if they were of one size."""
    summary = {"test": evaluation_report.write_split(epath.Path(tmp_path), "test", ROWS)}
    evaluation_report.write_summary(epath.Path(tmp_path), summary)
    saved = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=_refuse)
    assert saved["test"]["num_examples"] == 4
    assert saved["test"]["num_without_lung"] == 1
    np.testing.assert_allclose(saved["test"]["dice"], 0.7)
    np.testing.assert_allclose(saved["test"]["by_source"]["a"]["dice"], 0.6)
    assert saved["test"]["by_source"]["b"]["num_examples"] == 1
    assert "by_finding" not in saved["test"], "of one finding there are no groups"


def test_areas_are_told_for_enough_patients(tmp_path):
    """Fault: limits of agreement of a handful of images; areas of which nobody knows the error."""
    rows = [row(f"{i}", 0.9, pixels=(90 + 20 * (i % 2), 100)) for i in range(10)]
    # Fault: counted, though it has no area to compare with.
    rows.append(row("empty", 0.0, pixels=(90, 0)))
    figures = evaluation_report.write_split(epath.Path(tmp_path), "test", rows)
    assert figures["area_percent"]["bias"] == pytest.approx(0)
    # Of differences of 10 %, five below and five above.
    assert evaluation_report.areas_in_words(figures) == (
        "Lung areas of 10 images differ from the references' by +0.0 % on average; for 95 % of "
        "such images, -20.7 to +20.7 % are expected"
    )
    few = evaluation_report.write_split(epath.Path(tmp_path), "test", rows[1:])
    assert few["area_percent"] is None
    assert not evaluation_report.areas_in_words(few)


def test_findings_have_figures_of_their_own(tmp_path):
    """Fault: the ill averaged with the well, of whom there are more."""
    rows = [replace(row(f"{x}", x, pixels=(9, 8)), finding="ill" if x < 0.5 else "normal")
            for x in (0.25, 0.75, 1.0)]  # fmt: skip
    found = evaluation_report.write_split(epath.Path(tmp_path), "test", rows)["by_finding"]
    assert {name: figures["dice"] for name, figures in found.items()} == {
        "ill": 0.25, "normal": 0.875,
    }  # fmt: skip


def test_sexes_and_ages_have_figures_of_their_own(tmp_path):
    """Fault: a network that fails on the old, or on women, hidden by the mean of all."""
    known = [("F", 17.0), ("F", 18.0), ("M", 64.0), ("M", 65.0), ("", math.nan)]
    rows = [
        replace(row(f"{place}", place / 8), sex=sex, age_years=age)
        for place, (sex, age) in enumerate(known)
    ]
    summary = evaluation_report.write_split(epath.Path(tmp_path), "test", rows)
    assert {name: figures["dice"] for name, figures in summary["by_sex"].items()} == {
        "F": 0.0625, "M": 0.3125, "unknown": 0.5,
    }  # fmt: skip
    assert {name: figures["dice"] for name, figures in summary["by_age"].items()} == {
        "0 to 17": 0, "18 to 39": 0.125, "40 to 64": 0.25, "65 and over": 0.375, "unknown": 0.5,
    }  # fmt: skip
    with (tmp_path / "eval" / "test.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [(cells["sex"], cells["age_years"]) for cells in table[1:4:2]] == [
        ("F", "18.0"), ("M", "65.0"),
    ]  # fmt: skip


def test_closing_table_of_several_sizes_has_no_pixels(tmp_path):
    """Fault: a mean that says how many large files there are, not how good the masks are."""
    for height, size in ((9, "px"), (18, "%")):
        rows = [row("x", 0.5, hd95_percent=1.0), row("y", 0.7, hd95_percent=1.0, height=height)]
        summary = {"test": evaluation_report.write_split(epath.Path(tmp_path), "test", rows)}
        header = evaluation_report.closing_table(summary).splitlines()[0]
        assert [unit for unit in ("px", "%") if f"HD95 {unit}" in header] == [size]
        assert ("surface Dice" in header) == (size == "px")


def test_images_with_exchanged_sides_are_the_worst():
    """Fault: right taken for left at the top of the ranking, for both together are right."""
    rows = [
        row("x", 1.0, dice_right=0.0, dice_left=0.0),
        row("y", 0.6, dice_right=0.6),
        row("z", 0.7),
    ]
    assert evaluation_report.best_median_worst(rows) == {"best": 2, "median": 1, "worst": 0}


def test_closing_table_has_the_interval_of_enough_patients(tmp_path):
    """Fault: a mean of few images that looks as sure as one of many."""
    rows = [row(f"{number}", 0.9 + number / 200) for number in range(20)]
    for number, shown in ((20, True), (9, False)):
        split = evaluation_report.write_split(epath.Path(tmp_path), "test", rows[:number])
        table = evaluation_report.closing_table({"test": split})
        assert ("95 % interval" in table) == shown
        low, high = split["spread"]["dice"]["interval"] or (0, 0)
        assert (f"{low:.4f} to {high:.4f}" in table) == shown


def test_closing_table_names_splits_and_sources(tmp_path):
    """Fault: a table without units, figures under another heading, or images said to have a Dice.

    One of source a has no lung in prediction and reference.
    """
    summary = {"test": evaluation_report.write_split(epath.Path(tmp_path), "test", ROWS)}
    lines = evaluation_report.closing_table(summary).splitlines()
    assert [line.split("  ")[0] for line in lines[2:]] == ["test", "test a", "test b"]
    assert lines[0].split("  ")[-1].strip() == "images"
    assert [re.split(r" {2,}", line)[-1] for line in lines[2:]] == ["3 of 4", "2 of 3", "1"]
    assert "HD95 mm" not in lines[0]


def test_overlays_tell_their_dice(tmp_path):
    """Fault: a picture of the worst image that says nothing of it, or names colours it lacks."""
    image = np.zeros((9, 400, 3), np.uint8)
    sides = {"dice_right": 0.25, "dice_left": 0.75}
    for more, said in (({}, "Dice 0.9000"), (sides, "mean Dice of right and left 0.5000")):
        rows = [row("x", 0.9, **more)]
        evaluation_report.write_overlays(epath.Path(tmp_path), rows, {"worst": 0}, {0: image})
        shown = cv2.imread(str(tmp_path / "overlays" / "worst.png"), cv2.IMREAD_COLOR_RGB)
        assert shown is not None
        expected = with_words(image, said, sides=bool(more), reference=True)
        np.testing.assert_array_equal(shown, expected)


def test_closing_table_shows_failures_where_there_are_any(tmp_path):
    """Fault: a missed or an invented lung that only `metrics.json` tells of, or one as the other.

    Three misses of two sources; one invention in another split.
    """
    missed, invented = {"pixels": (0, 8)}, {"pixels": (9, 0)}
    splits = {
        "val": [row("x", 0.0, **missed), row("y", 0.0, **missed), row("z", 0.0, "b", **missed)],
        "test": [row("u", 0.5), row("v", 0.0, **invented)],
    }
    summary = {
        split: evaluation_report.write_split(epath.Path(tmp_path), split, rows)
        for split, rows in splits.items()
    }
    for shown, headings in (
        (("val", "test"), ["missed", "false", "lungs"]), (("test",), ["false", "lungs"]),
    ):  # fmt: skip
        part = {split: summary[split] for split in shown}
        header = evaluation_report.closing_table(part).splitlines()[0].split()
        assert header[header.index("images") + 1 :] == headings
    rows = evaluation_report.closing_table(summary).splitlines()[2:]
    assert [re.split(r" {2,}", line)[-3:] for line in rows] == [
        ["3", "3", "0"], ["2", "2", "0"], ["1", "1", "0"], ["2", "0", "1"],
    ]  # fmt: skip


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")
