"""Flags and what they ask for."""

import dataclasses
from pathlib import Path

import pytest
from etils import epath
from ml_collections import ConfigDict

from lungseg_jax.command_line import parse, parse_build, parse_prediction
from lungseg_jax.config import resolve
from lungseg_jax.errors import ConfigError
from lungseg_jax.imaging.radiograph import read_options
from lungseg_jax.workdir import claim, default_workdir
from tests.small import REPOSITORY, small_config


def test_a_tilde_after_a_flag_is_the_home_folder(monkeypatch):
    """Fault: a folder called ~, for shells put the home folder at the start of words alone."""
    monkeypatch.setenv("HOME", "/home/someone")
    arguments = ["main", "--config=configs/unet.py", "--workdir=~/run"]
    job = parse([*arguments, "--config.data.data_dir=~/records"])
    assert str(job.workdir) == "/home/someone/run"
    assert job.config.data.data_dir == "/home/someone/records"
    for given, meant in (("~/b~/c", "/home/someone/b~/c"), ("~", "/home/someone"), ("~b", "~b")):
        assert parse_prediction(["predict", "a", f"-output={given}"]).output == meant


@pytest.mark.parametrize(
    "name",
    sorted(path.name for path in (REPOSITORY / "configs").glob("*.py") if path.stem != "repeat"),
)
def test_every_experiment_is_one(name):
    """Fault: a key of the recipe that was renamed, found out by who trains it."""
    arguments = ["main", f"--config={REPOSITORY / 'configs' / name}", "--workdir=x"]
    config = parse(arguments).config
    assert config == resolve(ConfigDict(dataclasses.asdict(config)))
    for key, value in (("num_steps", 7), ("seed", 3)):
        assert getattr(parse([*arguments, f"--config.{key}={value}"]).config, key) == value


def test_a_run_is_repeated_by_its_folder(tmp_path):
    """Fault: a run that nobody can train again without typing each of its keys."""
    run, repeat = tmp_path / "run", REPOSITORY / "configs" / "repeat.py"
    config = small_config(seed=7, data__resident="false", optimizer__ema_decay=0.5)
    claim(epath.Path(run), config)
    arguments = ["main", f"--config={repeat}:{run}"]
    job = parse([*arguments, "--config.data.data_dir=elsewhere"])
    data = dataclasses.replace(config.data, data_dir="elsewhere")
    assert job.config == dataclasses.replace(config, data=data)
    # Fault: a run in place of the one that it repeats.
    assert Path(job.workdir).name.startswith("run-")
    for given, said in ((f"{repeat}", "no run is named"), (f"{repeat}:absent", "no such folder")):
        with pytest.raises(ConfigError, match=said):
            parse(["main", f"--config={given}"])


def test_keys_of_reading_reach_the_reader():
    """Fault: lateral images segmented, or left out, whatever the command line says."""
    keys = {"frontal_only": "false", "correct_polarity": "false", "max_megapixels": "7.5"}
    given = [f"--config.data.{key}={value}" for key, value in keys.items()]
    asked = parse_prediction(["predict", "a", "--output=b", *given])
    options = read_options(asked.config.data)
    assert (options.frontal_only, options.correct_polarity) == (False, False)
    assert options.max_pixels == 7_500_000


def test_options_of_beam_are_words_as_in_a_shell():
    """Fault: one option of all, or a value cut at its blank."""
    command = ["build", "--config=configs/unet.py"]
    assert parse_build(command)[1] is None
    given = parse_build([*command, "--beam=--runner=DirectRunner --job_name='a b'"])[1]
    assert given == ["--runner=DirectRunner", "--job_name=a b"]
    assert parse_build([*command, "--beam", "--runner=DirectRunner"])[1] == given[:1]
    # A switch needs no value.
    assert parse_build([*command, "--config.data.frontal_only", "--config.seed=3"])[0].seed == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config=configs/unet.py", "--workdir"], "Missing value for flag --workdir"),
        (["--mode=eval", "--workdir"], "Missing value for flag --workdir"),
        (["--config"], "Missing value for flag --config"),
        (["--config=configs/unet.py", "--flagfile=absent"], "absent"),
        (["--config=configs/unet.py", "--workdir", "--mode=eval"], "--workdir: is followed by"),
        (
            ["--config=configs/unet.py", "--config.data.data_dir", "--config.seed=3"],
            "--config.data.data_dir: is followed by",
        ),
        (["--config=configs/unet.py", "--config=configs/tpu.py"], "--config: is given twice"),
        (["--config="], "--config: is ''; give a file"),
        (["--config=configs"], "--config: is 'configs'; give a file"),
        (["--config=configs/unet.py:abc"], "command line: TypeError: get_config() takes 0"),
    ],
)
def test_slips_end_in_a_line_that_names_them(monkeypatch, arguments, said):
    """Fault: a traceback, or a folder called --mode=eval that the run goes to."""
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(ConfigError) as caught:
        parse(["main", *arguments])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_an_open_quotation_in_options_of_beam_is_named():
    """Fault: a traceback of the library that splits them."""
    with pytest.raises(ConfigError, match=r"--beam: is not a list of options \(No closing"):
        parse_build(["build", "--config=configs/unet.py", "--beam='"])


@pytest.mark.parametrize("argument", ["--mode=eval", "--config.distributed=true"])
def test_jobs_that_need_a_folder_ask_for_it(argument):
    """Fault: a new folder for each host, or one that holds no run to evaluate."""
    with pytest.raises(ConfigError, match="--workdir: is missing; "):
        parse(["main", "--config=configs/unet.py", argument])


def test_a_run_is_evaluated_by_its_own_configuration(tmp_path):
    """Fault: every flag of a training to be typed again, or the defaults in place of them."""
    config = small_config(fold=2, data__source="kaggle", data__manual_dir="/archive")
    claim(epath.Path(tmp_path), dataclasses.replace(config, distributed=True))
    arguments = ["main", "--mode=eval", f"--workdir={tmp_path}"]
    assert parse(arguments).config == config
    changed = parse([*arguments, "--config.evaluation.batch_size=3", "--step=5"])
    expected = dataclasses.replace(config.evaluation, batch_size=3)
    assert changed.config == dataclasses.replace(config, evaluation=expected)
    assert changed.step == 5
    with pytest.raises(ConfigError, match="unknown key 'batch_sise'"):
        parse([*arguments, "--config.batch_sise=3"])
    with pytest.raises(ConfigError, match="holds no run"):
        parse(["main", "--mode=eval", f"--workdir={tmp_path.parent}"])
    with pytest.raises(ConfigError, match="--workdir: is missing"):
        parse(["main", "--mode=eval"])


def test_a_step_is_asked_of_an_evaluation_alone():
    """Fault: training that takes a flag and does nothing with it."""
    with pytest.raises(ConfigError, match="--step: is given; is for --mode=eval only"):
        parse(["main", "--config=configs/unet.py", "--step=5"])
    job = parse(["main", "--config=configs/unet.py", "--mode=eval", "--workdir=a", "--step=5"])
    assert job.step == 5


def test_a_trace_is_asked_of_a_benchmark_alone():
    """Fault: a key that training takes and does nothing with."""
    with pytest.raises(ConfigError, match="profile: is given; is for --mode=benchmark only"):
        parse(["main", "--config=configs/unet.py", "--config.profile=true"])


def test_runs_that_start_together_have_folders_of_their_own():
    """Fault: two runs that save into one folder, such as the folds of a cross-validation."""
    folders = {default_workdir("configs/unet.py") for _ in range(20)}
    assert len(folders) == 20
