"""Two runs on the same images."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from lungseg_jax import evaluation_report
from lungseg_jax.compare import compare, main
from lungseg_jax.errors import DataError
from lungseg_jax.run_tables import COMPARED

# The columns of every table.
USUAL = tuple(name for name in COMPARED if not name.endswith(("_mm", "_right", "_left")))


def write_run(
    folder: Path,
    dice: np.ndarray,
    ids: list[str] | None = None,
    tolerance_px: float = 2.0,
    images_of_a_patient: int = 1,
    columns: Sequence[str] = USUAL,
    size: int = 512,
    tolerance_mm: float = 2.0,
) -> Path:
    (folder / "eval").mkdir(parents=True)
    figures = {"tolerance_px": tolerance_px, "tolerance_mm": tolerance_mm}
    evaluation_report.write_summary(epath.Path(folder), {"test": figures, "val": figures})
    ids = ids or [f"p{number}" for number in range(len(dice))]
    lines = [",".join(("id", "source", "patient", *columns, "reference_px", "height", "width"))]
    for place, (name, value) in enumerate(zip(ids, dice, strict=True)):
        patient = ids[place - place % images_of_a_patient]
        cell = "" if np.isnan(value) else f"{value}"
        # Of each metric another, so that none passes for another's.
        others = ["" if np.isnan(value) else f"0.{5 + i}" for i in range(len(columns) - 1)]
        lines.append(",".join((name, "folder", patient, cell, *others, "1000", f"{size}", "9")))
    (folder / "eval" / "test.csv").write_text("\n".join(lines) + "\n")
    return folder


# Test splits of two folds.
PARTS = (slice(0, 25), slice(25, 60))


@pytest.fixture
def dice() -> np.ndarray:
    return np.random.default_rng(0).normal(0.95, 0.02, 60)


def test_a_shift_is_found_and_signed(tmp_path, dice):
    """Fault: runs in another order, or images compared across instead of in pairs."""
    change = 0.002 + np.random.default_rng(1).normal(0, 0.001, 60)
    first = write_run(tmp_path / "a", dice)
    # In another order: pairs are made by id.
    order = np.random.default_rng(2).permutation(60)
    second = write_run(tmp_path / "b", (dice + change)[order], [f"p{i}" for i in order])
    found = compare([first], [second])[0]
    assert found.second - found.first == pytest.approx(change.mean())
    assert 0 < found.low < change.mean() < found.high < 0.003
    # Fault: an interval of 90 % called one of 95 %. Student's of 60 is wider by 3 %.
    assert found.high - found.low == pytest.approx(4.03 * change.std() / 60**0.5, rel=0.04)
    # The spread between images is ten times the change: only pairs can show it.
    assert found.p_patients < 2e-4
    assert (found.images, found.patients) == (60, 60)


def test_the_command_compares_the_split_that_it_is_asked_for(tmp_path, dice, capsys):
    """Fault: test figures shown for those of validation, or a difference with the sign turned."""
    first, second = write_run(tmp_path / "a", dice), write_run(tmp_path / "b", dice)
    for folder, shift in ((first, 0.0), (second, 0.01)):
        write_run(folder / "val", dice + shift)
        (folder / "val" / "eval" / "test.csv").rename(folder / "eval" / "val.csv")
    for arguments, difference in (([], "+0.0000"), (["--split=val"], "+0.0100")):
        assert main(["compare", str(first), str(second), *arguments]) == 0
        header, _, row, *_ = capsys.readouterr().out.splitlines()
        cells = dict(zip(re.split(r" {2,}", header.strip()), re.split(r" {2,}", row), strict=True))
        assert (cells["metric"], cells["second - first"]) == ("dice", difference)
        assert cells["first"] == f"{dice.mean():.4f}"


def test_seeds_that_differ_as_much_as_the_recipes_show_no_difference(tmp_path, dice, capsys):
    """Fault: one lucky seed of three, significant over patients, taken for a better recipe."""
    offsets = {"a": (0.0, 0.01, 0.02), "b": (0.012, 0.001, 0.023)}
    runs = {
        name: [write_run(tmp_path / f"{name}{i}", dice + x) for i, x in enumerate(values)]
        for name, values in offsets.items()
    }
    found = compare(runs["a"], runs["b"])[0]
    assert found.second - found.first == pytest.approx(0.002)
    assert (found.low, found.high) == pytest.approx((0.002, 0.002))
    assert found.p_patients < 2e-4
    for deviation, values in zip(
        (found.first_deviation, found.second_deviation), offsets.values(), strict=True
    ):
        assert deviation == pytest.approx(np.std(values, ddof=1))
    # By hand: t = .002 / √(.0001 / 3 + .000121 / 3) = .233.
    assert found.p_runs == pytest.approx(0.827, abs=0.002)
    assert main(["compare", *map(str, runs["a"]), "vs", *map(str, runs["b"])]) == 0
    shown, said = capsys.readouterr()
    assert f"{found.first:.4f} ± 0.0100" in shown
    # Of a metric that differs between runs, whatever the others do.
    assert "p (runs)" in shown
    assert "Welch" in said


def test_folds_together_count_each_image_once(tmp_path, dice):
    """Fault: five folds of a recipe compared by their own images' means, or not at all."""
    ids = [f"p{i}" for i in range(60)]
    folds, others = (
        [write_run(tmp_path / f"{name}{i}", dice[x] + shift, ids[x]) for i, x in enumerate(PARTS)]
        for name, shift in (("a", 0.0), ("b", 0.003))
    )
    found = compare(folds, others)[0]
    assert (found.first, found.second) == pytest.approx((dice.mean(), dice.mean() + 0.003))
    assert (found.images, found.patients) == (60, 60)
    # Means of different images say nothing about other runs.
    assert np.isnan([found.first_deviation, found.second_deviation, found.p_runs]).all()
    with pytest.raises(DataError, match=r"b0: has 60 images, 25 shared with the 25 of .*a0"):
        compare(folds[:1], others)


def test_unequal_spreads_of_seeds_are_not_pooled(tmp_path, dice):
    """Fault: Student's t-test, which takes the steadier recipe's seeds for as scattered."""
    offsets = {"a": (0.0, 0.02), "b": (0.0, 0.001, 0.002, 0.001)}
    first, second = (
        [write_run(tmp_path / f"{name}{i}", dice + x) for i, x in enumerate(values)]
        for name, values in offsets.items()
    )
    # By hand: t = .009 / √(.0002 / 2 + 6.67e-7 / 4) = .899 at 1.003 degrees of freedom, where p is
    # 1 - 2 / π · atan(t) but for .001. Student's, at 4 degrees of freedom, has .15.
    assert compare(first, second)[0].p_runs == pytest.approx(0.533, abs=0.003)


def test_a_recipe_whose_seeds_agree_is_compared_all_the_same(tmp_path, dice):
    """Fault: no p-value for other runs where the first group alone has no spread."""
    offsets = {"a": (0.0, 0.0), "b": (0.0, 0.02)}
    groups = [
        [write_run(tmp_path / f"{name}{i}", dice + x) for i, x in enumerate(values)]
        for name, values in offsets.items()
    ]
    # By hand: t = .01 / √(.0002 / 2) = 1 at one degree of freedom.
    for first, second in (groups, groups[::-1]):
        assert compare(first, second)[0].p_runs == pytest.approx(0.5)


def test_runs_that_would_count_twice_are_refused(tmp_path, dice):
    """Fault: overlapping patterns that make six runs of three; half of a split shared."""
    runs = [write_run(tmp_path / name, dice) for name in "abc"]
    (tmp_path / "link").symlink_to(runs[0])
    for group in (runs[:1], [tmp_path / "link"]):
        with pytest.raises(DataError, match="a: is given 2 times; name each run once"):
            compare(runs[:2], [*runs[2:], *group])
    half = write_run(tmp_path / "half", dice[:30])
    with pytest.raises(DataError, match=r"half: shares 30 of 30 images with .*a; make groups"):
        compare([runs[0], half], runs[1:2])


def test_every_fold_is_checked_against_its_like(tmp_path, dice):
    """Fault: references of the second fold never compared, for the first run has none of them."""
    ids = [f"p{i}" for i in range(60)]
    groups = [
        [write_run(tmp_path / f"{name}{i}", dice[x], ids[x]) for i, x in enumerate(PARTS)]
        for name in "ab"
    ]
    path = groups[1][1] / "eval" / "test.csv"
    path.write_text(path.read_text().replace(",1000,", ",1024,"))
    with pytest.raises(DataError, match=r"b1: 35 of 35 references have another size than in .*a1"):
        compare(*groups)


@pytest.mark.parametrize("words", ["a", "a b c", "a vs", "vs b", "a vs b vs c", "a vs vs b"])
def test_groups_that_cannot_be_told_are_refused(words, capsys):
    """Fault: the third of three runs left out without a word."""
    assert main(["compare", *words.split()]) == 1
    assert "name two folders, or two groups with vs between" in capsys.readouterr().err


def test_equal_runs_do_not_differ(tmp_path, dice):
    """Fault: a warning or NaN where no image differs."""
    found = compare([write_run(tmp_path / "a", dice)], [write_run(tmp_path / "b", dice)])
    assert [(row.low, row.high, row.p_patients) for row in found] == [(0, 0, 1)] * 5


def test_figures_without_meaning_are_left_out_in_pairs(tmp_path, dice):
    """Fault: an image that counts in one mean and not in the other."""
    dice[3] = np.nan
    found = compare([write_run(tmp_path / "a", dice)], [write_run(tmp_path / "b", dice)])[0]
    assert (found.images, found.patients) == (59, 59)
    assert found.first == found.second == pytest.approx(np.nanmean(dice))


def test_an_interval_and_a_p_that_contradict_each_other_are_explained(tmp_path, dice, capsys):
    """Fault: a table from which one reader takes a difference and another none, and no word why.

    All images improve, one of them by far the most: signs tell that, an interval about the mean
    does not.
    """
    change, dice = np.full(12, 0.0005), dice[:12]
    first = write_run(tmp_path / "a", dice)
    for last, contradicts in ((0.0005, False), (0.2, True)):
        change[-1] = last
        second = write_run(tmp_path / f"{last}", dice + change)
        assert main(["compare", str(first), str(second)]) == 0
        assert ("Interval and p disagree for dice:" in capsys.readouterr().err) == contradicts
        assert main(["compare", str(second), str(first)]) == 0
        assert ("Interval and p disagree for dice:" in capsys.readouterr().err) == contradicts


def test_invented_lungs_count_against_the_run_that_invents_them(tmp_path, dice, capsys):
    """Fault: a network that finds lungs in empty images called the better one.

    Where the reference is empty, the run that finds nothing has no figure, the other the worst.
    """
    careful, inventive = dice.copy(), dice + 0.001
    careful[:30], inventive[:30] = np.nan, 0.0
    folders = write_run(tmp_path / "a", careful), write_run(tmp_path / "b", inventive)
    found = {row.metric: row for row in compare(folders[:1], folders[1:])}
    assert (found["dice"].images, found["dice"].patients) == (60, 60)
    assert found["dice"].first == pytest.approx((30 + dice[30:].sum()) / 60)
    assert found["dice"].second == pytest.approx((dice[30:] + 0.001).sum() / 60)
    assert found["dice"].high < 0
    assert {row.images_of_nothing for row in found.values()} == {30}
    # Fault: a mean that differs from the run's own figures, and no word why.
    assert main(["compare", *map(str, folders)]) == 0
    assert "30 of the images have no lung" in capsys.readouterr().err
    # The best distance is none, the best share all.
    cases = (("iou", 0.5, 1), ("hd95_px", 0.6, 0), ("assd_px", 0.7, 0), ("surface_dice", 0.8, 1))
    for metric, written, best in cases:
        expected = ((best + written) / 2, written)
        assert (found[metric].first, found[metric].second) == pytest.approx(expected), metric


def test_a_metric_of_few_patients_is_told_beside_one_of_many(tmp_path, capsys):
    """Fault: a column without an interval, and no word why, for another metric has one."""
    dice = np.random.default_rng(0).normal(0.95, 0.02, 20)
    folders = [str(write_run(tmp_path / name, dice, columns=COMPARED)) for name in "ab"]
    for folder in folders:
        path = Path(folder) / "eval" / "test.csv"
        # Of the first five images alone, sides are told.
        header, *lines = path.read_text().splitlines()
        places = [header.split(",").index(name) for name in ("dice_right", "dice_left")]
        rows = [line.split(",") for line in lines]
        for row in rows[5:]:
            for place in places:
                row[place] = ""
        path.write_text("\n".join([header, *map(",".join, rows)]) + "\n")
    found = {one.metric: one.patients for one in compare(folders[:1], folders[1:])}
    assert (found["dice"], found.get("dice_right")) == (20, 5)
    assert main(["compare", *folders]) == 0
    assert "Of fewer than 10 patients there is no interval" in capsys.readouterr().err


def test_images_of_a_patient_count_as_one(tmp_path, capsys):
    """Fault: six patients' sixty images taken for sixty patients."""
    random = np.random.default_rng(0)
    first, change = np.full(60, 0.9), np.repeat(random.normal(0.002, 0.01, 6), 10)
    folders = [
        str(write_run(tmp_path / name, values, images_of_a_patient=10))
        for name, values in (("a", first), ("b", first + change))
    ]
    found = compare(folders[:1], folders[1:])[0]
    assert (found.images, found.patients) == (60, 6)
    assert np.isnan(found.low)
    # Of six signs the rarest sums are two in sixty-four.
    assert found.p_patients > 0.02
    assert main(["compare", *folders]) == 0
    assert "Of fewer than 10 patients there is no interval" in capsys.readouterr().err


def test_runs_on_other_images_are_refused(tmp_path, dice, capsys):
    """Fault: two test splits compared as if they were one."""
    first = write_run(tmp_path / "a", dice)
    second = write_run(tmp_path / "b", dice, [f"q{i}" for i in range(60)])
    with pytest.raises(DataError, match="0 shared with the 60"):
        compare([first], [second])
    assert main(["compare", str(first), str(tmp_path / "absent")]) == 1
    assert "No such file" in capsys.readouterr().err


def test_what_is_compared_suits_all_files_of_both(tmp_path, dice):
    """Fault: a mean in pixels over files of two sizes; sides of one run against nothing."""
    usual = write_run(tmp_path / "a", dice)
    whole = write_run(tmp_path / "b", dice, columns=COMPARED)
    larger = write_run(tmp_path / "c", dice, columns=COMPARED, size=1024)
    common, pixels = ["dice", "iou"], ["hd95_px", "assd_px", "surface_dice"]
    optional = ["dice_right", "dice_left", "hd95_mm", "surface_dice_mm"]
    other = write_run(tmp_path / "d", dice, columns=COMPARED)
    assert [one.metric for one in compare([usual], [whole])] == [*common, *pixels]
    assert [one.metric for one in compare([other], [whole])] == [*common, *pixels, *optional]
    percent = ["hd95_percent", "assd_percent"]
    assert [one.metric for one in compare([whole], [larger])] == [*common, *percent, *optional]
    looser = write_run(tmp_path / "e", dice, columns=COMPARED, tolerance_mm=3.0)
    shown = [one.metric for one in compare([looser], [whole])]
    assert shown == [*common, *pixels, *optional[:-1]]
    # In mm of some images alone: not the images that the other metrics are of.
    path = other / "eval" / "test.csv"
    path.write_text(re.sub(r"(?m)^(p3,.*,)0.13,0.14,1000", r"\1,,1000", path.read_text()))
    assert [one.metric for one in compare([other], [whole])] == [*common, *pixels, *optional[:2]]


def test_runs_are_named_with_their_checkpoints(tmp_path, dice, capsys):
    """Fault: a run that looks worse for being evaluated at an early step, without a word."""
    runs = [write_run(tmp_path / name, dice) for name in "ab"]
    for run, is_best in zip(runs, (True, False), strict=True):
        figures = {"tolerance_px": 2.0, "tolerance_mm": 2.0, "checkpoint_step": 50}
        summary = {"test": figures | {"checkpoint_is_best": is_best}}
        evaluation_report.write_summary(epath.Path(run), summary)
    assert main(["compare", *map(str, runs)]) == 0
    told = capsys.readouterr()
    assert f"first: {runs[0]}, checkpoint of step 50\n" in told.err
    assert f"second: {runs[1]}, checkpoint of step 50, which is not the best\n" in told.err
    # Of one run each there is nothing to say of other runs.
    assert "p (runs)" not in told.out


def test_other_references_are_refused(tmp_path, dice):
    """Fault: figures of two frames, or of two annotators, compared because the ids are the same."""
    first, second = write_run(tmp_path / "a", dice), write_run(tmp_path / "b", dice)
    path = second / "eval" / "test.csv"
    path.write_text(re.sub(r"(?m)^(p[37],.*),1000,", r"\1,1024,", path.read_text()))
    with pytest.raises(DataError, match=r"b: 2 of 60 references .*p3 has 1024 pixels, not 1000; "):
        compare([first], [second])


def test_another_tolerance_is_refused(tmp_path, dice):
    """Fault: a looser surface Dice taken for a better network."""
    first = write_run(tmp_path / "a", dice)
    second = write_run(tmp_path / "b", dice, tolerance_px=3.0)
    with pytest.raises(DataError, match=r"b: .*tolerance_px=3.0, .*a with 2.0; measure one"):
        compare([first], [second])
    # Fault: figures of another tolerance compared, because nothing tells which.
    for damaged in ('{"test": {"dice": 0.9}}', '{"test', "[]"):
        (second / "metrics.json").write_text(damaged)
        with pytest.raises(DataError, match=r"b/metrics.json: does not tell the tolerance"):
            compare([first], [second])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b",p3,0", b",p3,high0", r"test.csv: dice of p3 is 'high0[.0-9]*'; evaluate"),
        (b",p3,0", b",p3,inf,0", r"test.csv: dice of p3 is 'inf'; evaluate"),
        (b",0.9,0.10,1000,512,9\np4", b"\np4", r"test.csv: p3 has no hd95_percent; evaluate"),
        (b",1000,512,9\np4", b",,512,9\np4", r"test.csv: p3 has no reference_px; evaluate"),
        (b"reference_px", b"pixels", r"test.csv: has no column reference_px; evaluate"),
        (b"patient", b"person", r"test.csv: has no column patient; evaluate"),
        # Fault: tables of before a new metric called no tables.
        (b"hd95_px", b"hd96_px", r"test.csv: has no column hd95_px; evaluate"),
        (b"p3,", b"p\xff3,", r"test.csv: is not a table of an evaluation"),
        (b"p3,", b"p" * 2**18 + b",", r"test.csv: is not a table of an evaluation"),
    ],
)
def test_damaged_tables_are_one_line(tmp_path, dice, capsys, old, new, message):
    """Fault: a traceback, or a mean over fewer images, for a table that was edited or cut."""
    first = write_run(tmp_path / "a", dice)
    second = write_run(tmp_path / "b", dice)
    path = second / "eval" / "test.csv"
    path.write_bytes(path.read_bytes().replace(old, new))
    assert main(["compare", str(first), str(second)]) == 1
    said = capsys.readouterr().err.strip()
    assert re.search(message, said)
    assert "\n" not in said
