"""The folds or the seeds of a recipe, summed up."""

import json

import numpy as np
import pytest

from lungseg_jax import compare
from lungseg_jax.config import Config, DataConfig, to_json
from lungseg_jax.errors import DataError
from lungseg_jax.run_tables import COMPARED
from lungseg_jax.summarize import main, summarize_runs
from tests.test_compare import PARTS, write_run


@pytest.fixture
def dice() -> np.ndarray:
    return np.random.default_rng(0).normal(0.95, 0.02, 60)


def test_folds_together_are_one_table(tmp_path, dice):
    """Fault: the mean of means of folds of unequal size; an interval of the folds, not patients."""
    ids = [f"p{i}" for i in range(60)]
    whole = summarize_runs(write_run(tmp_path / "whole", dice, ids))[0]
    folds = [write_run(tmp_path / f"{i}", dice[x], ids[x]) for i, x in enumerate(PARTS)]
    found = summarize_runs(folds)[0]
    assert found.mean == pytest.approx(dice.mean())
    assert found.mean == pytest.approx(whole.mean)
    assert found.interval == pytest.approx(whole.interval)
    assert (found.images, found.patients) == (60, 60)
    means = [dice[part].mean() for part in PARTS]
    assert found.run_means == pytest.approx(means)
    assert found.deviation == pytest.approx(abs(means[0] - means[1]) / 2**0.5)
    assert whole.deviation is None


def test_seeds_are_averaged_image_by_image(tmp_path, dice):
    """Fault: each image counted once per seed, so that the interval shrinks with the seeds."""
    shift = np.where(np.arange(60) % 2, 0.02, -0.02)
    runs = [write_run(tmp_path / "a", dice + shift), write_run(tmp_path / "b", dice - shift)]
    found, whole = summarize_runs(runs)[0], summarize_runs(write_run(tmp_path / "c", dice))[0]
    assert found.mean == pytest.approx(dice.mean())
    assert found.interval == pytest.approx(whole.interval)
    assert found.deviation == pytest.approx(0, abs=1e-12)
    assert (found.images, found.patients) == (60, 60)


def test_an_image_without_a_metric_is_not_in_its_mean(tmp_path, dice):
    """Fault: NaN, or zero, for an image whose mask and prediction are both empty."""
    dice[3] = np.nan
    found = summarize_runs(write_run(tmp_path / "a", dice))[0]
    assert found.mean == pytest.approx(np.nanmean(dice))
    assert found.images == 59


def test_intervals_keep_to_the_range_of_their_own_metric(tmp_path):
    """Fault: a Dice above 1, or a distance cut off at 1, because metrics were exchanged."""
    dice = np.full(12, 0.99)
    dice[0] = 0.2
    folder = write_run(tmp_path / "a", dice)
    path = folder / "eval" / "test.csv"
    header, *lines = path.read_text().splitlines()
    place = header.split(",").index("hd95_px")
    rows = [line.split(",") for line in lines]
    for row in rows:
        row[place] = f"{1000 * (1 - float(row[header.split(',').index('dice')]))}"
    path.write_text("\n".join([header, *map(",".join, rows)]) + "\n")
    found = {one.metric: one.interval for one in summarize_runs(folder)}
    assert found["dice"] is not None
    assert found["hd95_px"] is not None
    assert found["dice"][1] == 1
    assert found["hd95_px"][0] == 0
    assert found["hd95_px"][1] > 100


def test_the_command_prints_and_writes_the_same(tmp_path, dice, capsys):
    """Fault: figures under the name of another metric, or a file that lacks the runs."""
    runs = [str(write_run(tmp_path / name, dice, columns=COMPARED)) for name in "ab"]
    output = tmp_path / "sum.json"
    assert main(["summarize", *runs, f"--output={output}"]) == 0
    written = json.loads(output.read_text())
    assert written["runs"] == runs
    first = {name: one["run_means"][0] for name, one in written["metrics_of_runs"].items()}
    # As the table was written: another figure for each metric.
    shown_metrics = [name for name in COMPARED if not name.endswith("_percent")]
    expected = {name: float(f"0.{4 + COMPARED.index(name)}") for name in shown_metrics[1:]}
    assert first == pytest.approx({"dice": dice.mean()} | expected)
    lines = capsys.readouterr().out.splitlines()
    shown = {line.split()[0]: float(line.split()[1]) for line in lines[2:]}
    means = {name: one["mean"] for name, one in written["metrics_of_runs"].items()}
    assert shown == pytest.approx(means, abs=5.1e-3)
    assert shown["dice"] == pytest.approx(means["dice"], abs=5.1e-5)
    assert main(["summarize", *runs, f"--output={output}"]) == 0
    # Fault: a run's own metrics replaced.
    for path in (f"{runs[0]}/metrics.json", str(tmp_path / "absent" / "x.json")):
        capsys.readouterr()
        assert main(["summarize", *runs, f"--output={path}"]) == 1
        assert "give another --output" in capsys.readouterr().err
    assert json.loads((tmp_path / "a" / "metrics.json").read_text())["test"]["tolerance_px"] == 2


def test_no_run_and_no_metric_are_no_tracebacks(tmp_path, capsys):
    """Fault: an error of Python's for a command without folders, or for images without lungs."""
    assert main(["summarize"]) == 1
    assert "name the folders of finished runs" in capsys.readouterr().err
    assert main(["summarize", str(write_run(tmp_path / "a", np.full(12, np.nan)))]) == 0


def test_a_split_that_is_shared_in_part_is_refused(tmp_path, dice):
    """Fault: runs of two splits pooled as if they were folds of one."""
    ids = [f"p{i}" for i in range(61)]
    runs = [write_run(tmp_path / f"{i}", dice, ids[i : i + 60]) for i in range(2)]
    with pytest.raises(DataError, match="shares 59 of 60 images"):
        summarize_runs(runs)


def test_runs_of_other_recipes_are_named(tmp_path, dice, capsys):
    """Fault: the deviation of 200 and of 100 steps read as that of seeds; seeds complained of."""
    runs = [write_run(tmp_path / name, dice) for name in "abc"]
    for run, seed, steps in zip(runs, (0, 1, 1), (200, 200, 100), strict=True):
        config = Config(seed=seed, num_steps=steps, data=DataConfig(data_dir=f"/records/{seed}"))
        (run / "config.json").write_text(to_json(config))
    told = "Not runs of one recipe"
    assert main(["summarize", *map(str, runs[:2])]) == 0
    assert told not in capsys.readouterr().err
    assert main(["summarize", *map(str, runs)]) == 0
    assert f"{told}, so that they differ by more than chance: num_steps is 200, 200, 100" in (
        capsys.readouterr().err
    )
    # Fault: seeds of one test split that were trained on other images; each from its own start.
    for run, train in zip(runs[:2], ("ab", "a"), strict=True):
        splits = {"train": [*train], "val": ["v"], "test": ["t"]}
        (run / "splits.json").write_text(json.dumps(splits))
        config = Config(seed=len(train), start_from=str(run / "before"))
        (run / "config.json").write_text(to_json(config))
    assert main(["summarize", *map(str, runs[:2])]) == 0
    assert "chance: the number of images to train on is 2, 1" in capsys.readouterr().err
    for run in runs[:2]:
        (run / "splits.json").unlink()
    # Of two groups, each is one of its own.
    assert compare.main(["compare", *map(str, runs[:2]), "vs", str(runs[2])]) == 0
    assert told not in capsys.readouterr().err
    assert compare.main(["compare", str(runs[0]), "vs", *map(str, runs[1:])]) == 0
    assert "num_steps is 200, 100" in capsys.readouterr().err


def test_records_of_several_versions_are_told(tmp_path, dice, capsys):
    """Fault: folds, some read in another way since an update, as one table without a word."""
    runs = [write_run(tmp_path / name, dice) for name in "abc"]
    for run, builder in zip(runs, ("2.2.0", "2.2.1", None), strict=True):
        (run / "environment.json").write_text(json.dumps([{"builder": builder}]))
    told = "records are of versions 2.2.0, 2.2.1 of the builder"
    assert main(["summarize", *map(str, runs)]) == 0
    assert told in capsys.readouterr().err
    assert compare.main(["compare", *map(str, runs[:2])]) == 0
    assert told in capsys.readouterr().err
    # One of them says nothing of it, as runs of earlier versions do.
    assert main(["summarize", *map(str, runs[1:])]) == 0
    assert "of the builder" not in capsys.readouterr().err


def test_an_image_that_comes_twice_is_refused(tmp_path, dice):
    """Fault: a table that was edited by hand, of which one of two rows counts."""
    run = write_run(tmp_path / "a", dice, [f"p{i // 2}" for i in range(60)])
    with pytest.raises(DataError, match="has an image twice"):
        summarize_runs(run)


@pytest.mark.parametrize("content", ["{", "[]", '{"data": null}'])
def test_a_damaged_configuration_is_named(tmp_path, dice, content: str, capsys):
    """Fault: runs of two recipes taken for seeds of one, because a file could not be read."""
    runs = [write_run(tmp_path / name, dice) for name in "ab"]
    (runs[0] / "config.json").write_text(to_json(Config()))
    (runs[1] / "config.json").write_text(content)
    assert main(["summarize", *map(str, runs)]) == 1
    assert f"Error: {runs[1] / 'config.json'}: " in capsys.readouterr().err


def test_masks_of_two_programs_are_not_of_one_recipe(tmp_path, dice, capsys):
    """Fault: the mean of a network's Dice and another program's."""
    runs = [write_run(tmp_path / name, dice) for name in "ab"]
    for run, command in zip(runs, ("validate", "measure"), strict=True):
        (run / "validation.json").write_text(json.dumps({"command": command}))
    assert main(["summarize", *map(str, runs)]) == 0
    assert "the command that measured is validate, measure" in capsys.readouterr().err
