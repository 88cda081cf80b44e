"""Usage: python -m lungseg_jax.main --config=configs/unet.py [--config.KEY=VALUE …]

--config=FILE       experiment, a file with get_config(); every key is in lungseg_jax/config.py
--config.KEY=VALUE  changes one key
--workdir=DIR       folder of the run (default: runs/<experiment>-<time>); again to resume
--mode=MODE         train (default), eval or benchmark
"""

import sys
from collections.abc import Sequence

import jax
from absl import flags, logging
from etils import epath
from ml_collections import config_flags

from lungseg_jax import report, terminal
from lungseg_jax.benchmark import benchmark
from lungseg_jax.config import Config, resolve
from lungseg_jax.errors import ConfigError, UserError
from lungseg_jax.evaluate import evaluate
from lungseg_jax.train import train_and_evaluate
from lungseg_jax.workdir import default_workdir

PHANTOM_NOTICE = """Using generated phantoms. For real radiographs: \
--config.data.source=kaggle --config.data.manual_dir=FOLDER"""


def main(arguments: Sequence[str]) -> int:
    """Does one job; returns the exit code. Faults that a user can mend end in one line."""
    if "--help" in arguments:
        terminal.say(str(__doc__))
        return 0
    logging.set_verbosity(logging.ERROR)
    try:
        mode, config, workdir = _parse(arguments)
        if config.distributed:
            jax.distributed.initialize()
        if config.data.source == "phantom":
            terminal.say(PHANTOM_NOTICE)
        _run(mode, config, workdir)
    except UserError as error:
        terminal.say(f"Error: {error}")
        return 1
    except KeyboardInterrupt:
        terminal.say("Interrupted")
        return 130
    return 0


def _run(mode: str, config: Config, workdir: epath.Path) -> None:
    if mode == "benchmark":
        benchmark(config, workdir)
        return
    terminal.say(f"Folder of the run: {workdir} (pass it as --workdir to resume)")
    job = evaluate if mode == "eval" else train_and_evaluate
    summary = job(config, workdir)
    if summary is None:
        terminal.say(f"Stopped and saved; the same command with --workdir={workdir} resumes")
    else:
        terminal.say(f"\n{report.closing_table(summary)}\n\nFigures and pictures: {workdir}")


def _parse(arguments: Sequence[str]) -> tuple[str, Config, epath.Path]:
    values = flags.FlagValues()
    given = list(arguments)
    config = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=given)
    workdir = flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=values)
    mode = flags.DEFINE_enum(
        "mode", "train", ["train", "eval", "benchmark"], "What to do.", flag_values=values
    )
    try:
        rest = values(given)[1:]
    except (flags.Error, KeyError, AttributeError, TypeError, ValueError, OSError) as error:
        # Where ml_collections fails to load a file, the reason is the last of several lines.
        reason = str(error).strip("'\"").splitlines()[-1].strip()
        raise ConfigError("command line", reason, "see README.md for the keys") from error
    if rest:
        raise ConfigError("command line", f"unknown argument {rest[0]!r}", "start it with --")
    if config.value is None:
        raise ConfigError("command line", "--config is missing", "pass --config=configs/unet.py")
    path = workdir.value or default_workdir(config_flags.get_config_filename(values["config"]))
    return mode.value, resolve(config.value), epath.Path(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
