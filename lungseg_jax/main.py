"""Trains, evaluates or benchmarks a network that segments lungs (lungseg_jax.predict uses one).

Usage: python -m lungseg_jax.main --config=configs/unet.py [--config.KEY=VALUE …]

--config=FILE       experiment, a file with get_config(); every key is in lungseg_jax/config.py
                    (with --mode=eval, default: the configuration of the run in --workdir)
--config.KEY=VALUE  changes one key
--workdir=DIR       folder of the run, or gs://BUCKET/FOLDER (default: runs/<experiment>-<time>);
                    give it again to resume
--mode=MODE         train (default), eval, benchmark or compile
--step=N            step of the checkpoint that --mode=eval evaluates (default: the best by
                    validation Dice)
--topology=NAME     TPUs that --mode=compile compiles for, such as v5e:2x2; no TPU is needed
"""

import sys

from lungseg_jax.runtime.huge_pages import restart_with_huge_pages

if __name__ == "__main__":
    # Here, because the imports below take seconds.
    restart_with_huge_pages()

from collections.abc import Sequence

import jax

from lungseg_jax import terminal
from lungseg_jax.benchmark import benchmark
from lungseg_jax.command import NO_MEMORY_FOR_A_BATCH, run_command
from lungseg_jax.command_line import Job, parse
from lungseg_jax.compile_ahead import compile_ahead
from lungseg_jax.runtime.compilation_cache import use_compilation_cache
from lungseg_jax.runtime.cpu_devices import use_all_cores
from lungseg_jax.runtime.hosts import end_with_hosts, join_hosts
from lungseg_jax.runtime.preemption import Stopped
from lungseg_jax.runtime.startup import importing

PHANTOM_NOTICE = """Using generated phantoms. For real radiographs: \
--config.data.source=kaggle --config.data.manual_dir=FOLDER"""


def main(arguments: Sequence[str]) -> int:
    """Does one job; returns the exit code."""
    resume = (
        "run the same command again; with the same --workdir, training resumes from its newest "
        "checkpoint, if it saved one"
    )
    return end_with_hosts(
        lambda: run_command(
            arguments, str(__doc__), lambda: _run(parse(arguments)), resume, NO_MEMORY_FOR_A_BATCH
        )
    )


def _run(job: Job) -> None:
    config, workdir = job.config, job.workdir
    use_compilation_cache()
    if job.topology is not None:
        jax.config.update("jax_platforms", "cpu")
        compile_ahead(config, workdir, job.topology)
        return
    use_all_cores(config)
    if config.distributed:
        join_hosts()
    if job.mode == "benchmark":
        benchmark(config, workdir)
        return
    # Here, so that a machine without TFDS, Grain and OpenCV can be benchmarked.
    with importing():
        from lungseg_jax import evaluation_report
        from lungseg_jax.evaluate import evaluate
        from lungseg_jax.train import train_and_evaluate

    is_eval = job.mode == "eval"
    if not is_eval and config.data.source == "phantom":
        terminal.say(PHANTOM_NOTICE)
    summary = (
        evaluate(config, workdir, job.step) if is_eval else train_and_evaluate(config, workdir)
    )
    if summary is None:
        raise Stopped(f"Stopped and saved; the same command with --workdir={workdir} resumes")
    terminal.say(f"\n{evaluation_report.closing_table(summary)}\n\nFigures and images: {workdir}")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
