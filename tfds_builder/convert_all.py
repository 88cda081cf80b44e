"""Converts all chunks of a data set, on every core or with Apache Beam."""

import concurrent.futures
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lungseg_jax import terminal
from lungseg_jax.runtime.cores import usable_cores
from lungseg_jax.runtime.sandbox import Sandboxes
from tfds_builder.conversion import Chunk, Conversion, Converted, first_bad
from tfds_builder.convert_case import convert_case

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions


def convert_chunks(
    conversion: Conversion,
    chunks: Sequence[Chunk],
    beam_options: "PipelineOptions | None" = None,
) -> Converted:
    """Converts what is not yet converted, on all cores or with Apache Beam.

    Raises:
      DataError: a file is bad and the conversion is to fail fast.
    """
    conversion.folder.mkdir(parents=True, exist_ok=True)
    # Left by builds that were killed, since no other build runs now.
    for partial in conversion.folder.glob("*.partial"):
        partial.unlink()
    missing = [chunk for chunk in chunks if not conversion.is_done(chunk)]
    if beam_options is not None:
        # Beam is an optional dependency, needed only if it is asked for.
        from tfds_builder.beam_pipeline import convert_with_beam

        convert_with_beam(conversion, missing, beam_options)
    else:
        total, left = (sum(len(chunk.cases) for chunk in some) for some in (chunks, missing))
        with terminal.progress("images", total, "file", total - left) as bar:
            _convert_on_all_cores(conversion, missing, bar.update)
    converted = conversion.collect(chunks)
    if conversion.fail_fast:
        for outcome in converted.outcomes:
            if outcome.status == "bad":
                raise first_bad(outcome)
    return converted


def _convert_on_all_cores(
    conversion: Conversion, chunks: Sequence[Chunk], after_each: Callable[[], object]
) -> None:
    """Converts chunks in one worker process per core, each fed by a thread that waits for it."""
    workers = max(1, min(usable_cores(), len(chunks)))
    with (
        Sandboxes(workers, conversion.settings.reading.memory_bytes, convert_case) as sandboxes,
        concurrent.futures.ThreadPoolExecutor(workers) as pool,
    ):
        try:
            for _ in pool.map(
                lambda chunk: conversion.convert_chunk(chunk, sandboxes, after_each), chunks
            ):
                pass
        finally:
            # After a fault or an interrupt, threads that wait for a worker end with it.
            sandboxes.stop()
