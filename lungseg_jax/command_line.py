"""Command-line flags: which job, with which configuration, in which folder."""

import dataclasses
import itertools
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from absl import flags
from etils import epath
from ml_collections import ConfigDict, config_flags

from lungseg_jax.config import Config, DataConfig, default_config, resolve
from lungseg_jax.errors import ConfigError
from lungseg_jax.paths import run_folder
from lungseg_jax.prediction.results import Extra
from lungseg_jax.workdir import default_workdir, read_config

# Keys of `DataConfig` on how files are read.
READING_KEYS = ("frontal_only", "correct_polarity", "max_megapixels")

MODES = ["train", "eval", "benchmark", "compile"]

# What a flag's parser says about a value of the wrong type, and what the right type is called here.
TYPES = {
    "invalid literal for int()": "a whole number",
    "could not convert string to float": "a number",
    "Non-boolean argument to boolean flag": "true or false",
}


@dataclasses.dataclass(frozen=True)
class Job:
    """What `lungseg_jax.main` is asked to do.

    Attributes:
      mode: one of `MODES`.
      config: the run's configuration.
      workdir: the run's folder.
      topology: TPUs to compile for, in that mode.
      step: step of the checkpoint to evaluate; `None` for the best.
    """

    mode: str
    config: Config
    workdir: epath.PathLike
    topology: str | None = None
    step: int | None = None


def parse(arguments: Sequence[str]) -> Job:
    """Returns what a command line asks for.

    Raises:
      ConfigError: an unknown flag or key, an impossible value, or no configuration.
    """
    values = flags.FlagValues()
    workdir = flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=values)
    mode = flags.DEFINE_enum("mode", "train", MODES, "What to do.", flag_values=values)
    topology = flags.DEFINE_string("topology", None, "TPUs to compile for.", flag_values=values)
    step = flags.DEFINE_integer("step", None, "Checkpoint to evaluate.", flag_values=values)
    file, resolved = _read_config(arguments, values, _config_of_evaluated_run(arguments))
    if resolved.distributed and not workdir.value:
        raise ConfigError("--workdir", "is missing", "several hosts need one folder for all")
    if mode.value == "eval" and not workdir.value:
        raise ConfigError("--workdir", "is missing", "give the folder of a finished run")
    if resolved.profile and mode.value != "benchmark":
        raise ConfigError("profile", "is given", "is for --mode=benchmark only")
    if (mode.value == "compile") != bool(topology.value):
        fault = "is missing" if mode.value == "compile" else "is for --mode=compile only"
        raise ConfigError("--topology", fault, "such as --mode=compile --topology=v5e:2x2")
    if step.value is not None and mode.value != "eval":
        raise ConfigError("--step", "is given", "is for --mode=eval only")
    folder = workdir.value or default_workdir(file)
    return Job(str(mode.value), resolved, folder, topology.value, step.value)


def _config_of_evaluated_run(arguments: Sequence[str]) -> Config | None:
    """Returns the configuration of the run to evaluate; `None` if a file is given, or none is."""
    values = flags.FlagValues()
    config, mode, workdir = (
        flags.DEFINE_string(name, None, "", flag_values=values)
        for name in ("config", "mode", "workdir")
    )
    try:
        values([_expand_home(argument) for argument in arguments], known_only=True)
    except flags.Error:
        # It shows when all flags are parsed.
        return None
    if mode.value != "eval" or config.value is not None:
        return None
    if not workdir.value:
        raise ConfigError("--workdir", "is missing", "give the folder of a finished run")
    # On how many hosts a run was trained does not matter to who evaluates it.
    return dataclasses.replace(read_config(run_folder(workdir.value)), distributed=False)


def parse_build(arguments: Sequence[str]) -> tuple[Config, list[str] | None]:
    """Returns (configuration, options of Apache Beam or `None`).

    Raises:
      ConfigError: an unknown flag or key, an impossible value, or no configuration.
    """
    values = flags.FlagValues()
    beam = flags.DEFINE_string("beam", None, "Options of Apache Beam.", flag_values=values)
    _, resolved = _read_config(arguments, values)
    try:
        return resolved, None if beam.value is None else shlex.split(beam.value)
    except ValueError as error:
        raise ConfigError("--beam", f"is not a list of options ({error})", "see --help") from error


@dataclasses.dataclass(frozen=True)
class PredictionArguments:
    """What `lungseg_jax.predict` is asked to do.

    Attributes:
      paths: files and folders.
      output: folder for results.
      checkpoints: folders of runs and files of weights; none for the weights in the package.
      both_ways: whether the prediction of the mirrored image is averaged in.
      extras: what is written besides masks and overlays.
      config: only how files are read matters.
    """

    paths: list[str]
    output: str
    checkpoints: list[str]
    both_ways: bool
    extras: tuple[Extra, ...]
    config: Config


def parse_prediction(arguments: Sequence[str]) -> PredictionArguments:
    """Returns what a command line asks for.

    Raises:
      ConfigError: an unknown flag or key, an impossible value, or a missing one.
    """
    values, given = flags.FlagValues(), list(arguments)
    output = flags.DEFINE_string("output", None, "Where results go.", flag_values=values)
    checkpoints = flags.DEFINE_multi_string(
        "checkpoint", [], "Folder of a run.", flag_values=values
    )
    both_ways = flags.DEFINE_boolean("both_ways", False, "Mirrored too.", flag_values=values)
    extras = {
        extra: flags.DEFINE_boolean(extra, False, "Write these, too.", flag_values=values)
        for extra in get_args(Extra)
    }
    reading = {key: getattr(DataConfig(), key) for key in READING_KEYS}
    config = define_keys(values, given, {"data": reading})
    paths = parse_flags(values, given)
    if not paths:
        raise ConfigError("command line", "no file is given", "name files or folders")
    if not output.value:
        raise ConfigError("--output", "is missing", "give the folder that results go to")
    return PredictionArguments(
        paths,
        output.value,
        checkpoints.value,
        bool(both_ways.value),
        tuple(extra for extra, wanted in extras.items() if wanted.value),
        resolve(config.value),
    )


def define_keys(
    values: flags.FlagValues, arguments: list[str], keys: dict[str, dict[str, Any]]
) -> flags.FlagHolder:
    """Defines `--config.GROUP.KEY=VALUE` for some keys; returns the holder of their `ConfigDict`.

    Args:
      values: where flags are defined.
      arguments: the command's arguments.
      keys: the keys of each group, with their defaults.

    Raises:
      ConfigError: a key that is not one of them.
    """
    try:
        # It checks the overrides' keys at once.
        return config_flags.DEFINE_config_dict(
            "config", ConfigDict(keys), flag_values=values, sys_argv=arguments
        )
    except (AttributeError, KeyError) as error:
        known = [f"{group}.{key}" for group, names in keys.items() for key in names]
        # Without suggesting keys of the same name, which other commands take.
        reason = _reason(error).partition(", perhaps")[0]
        raise ConfigError("command line", reason, f"one of {', '.join(known)}") from error


def _read_config(
    arguments: Sequence[str], values: flags.FlagValues, own: Config | None = None
) -> tuple[str, Config]:
    """Parses all flags; returns the config file's name, if there is one, and the configuration.

    Args:
      arguments: the command's arguments.
      values: where flags are defined.
      own: a run's configuration, which stands in for a file.
    """
    given = list(arguments)
    if sum(bool(re.match("--?config(=|$)", word)) for word in given) > 1:
        raise ConfigError("--config", "is given twice", "give one file")
    if own is not None:
        own_keys = ConfigDict(dataclasses.asdict(own))
        try:
            config = config_flags.DEFINE_config_dict(
                "config", own_keys, flag_values=values, sys_argv=given
            )
        except (AttributeError, KeyError) as error:
            remedy = "see lungseg_jax/config.py for keys"
            raise ConfigError("command line", _reason(error), remedy) from error
    else:
        try:
            # It reads a --flagfile at once.
            config = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=given)
        except flags.Error as error:
            raise ConfigError("command line", _reason(error), "check its path") from error
    parse_flags_alone(values, given)
    if own is not None:
        return "", resolve(config.value)
    if config.value is None:
        raise ConfigError("command line", "--config is missing", "pass --config=configs/unet.py")
    file = config_flags.get_config_filename(values["config"])
    if not isinstance(config.value, ConfigDict):
        # Checked only now: a name may carry an argument, as in FILE:ARGUMENT.
        if not file or Path(file).is_dir():
            raise ConfigError("--config", f"is {file!r}", "give a file, such as configs/unet.py")
        if not Path(file).exists():
            remedy = "see configs/ for those there are"
            if not Path("configs").exists():
                remedy = "run in the repository's folder"
            raise ConfigError(file, "no such file", remedy)
        raise ConfigError("--config", "get_config() returns no ConfigDict", "see configs/unet.py")
    return file, resolve(config.value)


def parse_flags(values: flags.FlagValues, arguments: Sequence[str]) -> list[str]:
    """Parses all flags; returns the arguments that are not flags.

    Raises:
      ConfigError: an unknown flag or key, or a value that is not allowed for it.
    """
    for word, following in itertools.pairwise(arguments):
        if following.startswith("--") and _takes_value(word, values):
            fault = f"is followed by {following} instead of a value"
            raise ConfigError(word, fault, f"write {word}=VALUE")
    try:
        return values([_expand_home(argument) for argument in arguments])[1:]
    # A config file is a program of the user: it may raise anything.
    except Exception as error:
        raise ConfigError(
            "command line", _reason(error), "see --help, and lungseg_jax/config.py for keys"
        ) from error


def _takes_value(word: str, values: flags.FlagValues) -> bool:
    """Whether a word is a flag without its value, which is not one of other programs' options."""
    name = word.lstrip("-")
    if not word.startswith("-") or name == "beam":
        return False
    if name in values:
        return not values[name].boolean
    # Keys are defined only while they are parsed.
    group, _, key = name.removeprefix("config.").rpartition(".")
    keys: Any = default_config()
    keys = keys.get(group, {}) if group else keys
    return name.startswith("config.") and key in keys and not isinstance(keys[key], bool)


def parse_flags_alone(values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Parses all flags of a command that takes nothing else.

    Raises:
      ConfigError: see `parse_flags`, or an argument that is not a flag.
    """
    if rest := parse_flags(values, arguments):
        raise ConfigError("command line", f"unknown argument {rest[0]!r}", "start it with --")


def _expand_home(argument: str) -> str:
    """Expands ~ after a flag's name: shells do so only at the beginning of a word."""
    return re.sub(r"^(--?[\w.]+=)~(?=/|$)", lambda flag: f"{flag[1]}{Path.home()}", argument)


def _reason(error: Exception) -> str:
    """Returns an error's message on one line, without the quotes that `str` puts around keys."""
    said = error.args[0] if error.args else error
    # ml_collections passes on a whole KeyError as the message.
    if isinstance(said, KeyError) and said.args:
        said = said.args[0]
    first = said if isinstance(said, str) else str(error)
    lines = first.splitlines() or [""]
    # Where ml_collections fails to load a file, or to call it, the reason is the last of several
    # lines.
    is_last = isinstance(error, OSError) or "Traceback" in first
    text = lines[-1].strip() if is_last else " ".join(lines)
    # ml_collections names the key alone, or suggests a similar one.
    if key := re.fullmatch(r"'([\w.]+)'(?: Did you mean \"(\w+)\".*)?", text):
        near = _keys_named(key[1]) or ([key[2]] if key[2] else [])
        nearest = f", perhaps {' or '.join(map(repr, near))}" if near else ""
        text = f"unknown key {key[1]!r}{nearest}"
    if isinstance(error, flags.IllegalFlagValueError):
        for said_by_parser, wanted in TYPES.items():
            flag, found, _ = text.partition(said_by_parser)
            if found:
                return flag.rstrip(": ('") + f": not {wanted}"
    if "Overriding config is not allowed" in text:
        return "a file is given as --config, of which only --config.KEY=VALUE are taken"
    known = isinstance(error, flags.Error | OSError | AttributeError | KeyError)
    return text if known else f"{type(error).__name__}: {text}"


def _keys_named(name: str) -> list[str]:
    """Returns the keys of the groups that have one of that name: `optimizer.learning_rate`."""
    groups = default_config().items()
    return [
        f"{group}.{name}" for group, keys in groups if isinstance(keys, ConfigDict) and name in keys
    ]
