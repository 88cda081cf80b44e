"""Builds the records of an experiment, without training on them.

Usage: python -m lungseg_jax.build --config=configs/kaggle.py [--config.KEY=VALUE …]

--config=FILE       experiment, a file with get_config(); only its data, seed and fold matter
--config.KEY=VALUE  changes one key
--beam=OPTIONS      build by Apache Beam, as in --beam="--runner=DirectRunner"
"""

import importlib.util
import sys
from collections.abc import Sequence

from lungseg_jax import terminal
from lungseg_jax.command import run_command
from lungseg_jax.command_line import parse_build
from lungseg_jax.config import Config
from lungseg_jax.data.records import build_records
from lungseg_jax.errors import ConfigError


def main(arguments: Sequence[str]) -> int:
    """Builds the records; returns the exit code."""
    resume = "run the same command again to resume"
    return run_command(arguments, str(__doc__), lambda: _build(*parse_build(arguments)), resume)


def _build(config: Config, beam_options: list[str] | None) -> None:
    options = None
    if beam_options is not None:
        if importlib.util.find_spec("apache_beam") is None:
            raise ConfigError("--beam", "Apache Beam is missing", "pip install apache-beam")
        from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
        from apache_beam.runners.runner import create_runner

        options = PipelineOptions(beam_options)
        runner = options.view_as(StandardOptions).runner or "DirectRunner"
        try:
            # Checked before the files are listed.
            create_runner(runner)
        except ValueError as error:
            raise ConfigError("--beam", str(error), "name a runner of Apache Beam") from error
        # Beam would leave them out: a build by one worker instead of eight. Of other runners Beam
        # learns the options only when they start.
        known = options.get_all_options()
        unknown = options.get_all_options(retain_unknown_options=True).keys() - known.keys()
        if unknown and runner == "DirectRunner":
            fault = f"has unknown options: {', '.join(sorted(unknown))}"
            raise ConfigError("--beam", fault, "see Apache Beam's documentation for its runner")
    terminal.say(f"Records: {build_records(config, options).data_path}")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
