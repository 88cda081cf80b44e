"""The conversion as an Apache Beam pipeline, for archives too large for one machine.

Workers run the same `Conversion.convert_chunk` as a single machine does, in the same sandbox, and
write to the same folder, which all machines must reach.
"""

import dataclasses
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from lungseg_jax.errors import DataError
from lungseg_jax.file_digest import digest_bytes
from lungseg_jax.runtime.sandbox import Sandbox
from tfds_builder.conversion import Chunk, Conversion
from tfds_builder.convert_case import convert_case
from tfds_builder.id_key import read_key


class _ConvertChunk(beam.DoFn):
    """Converts chunks in a sandbox that lives as long as the worker."""

    def __init__(self, conversion: Conversion) -> None:
        # A runner keeps what it sends to its workers, so they read the secret themselves.
        self._conversion = _with_key(conversion, b"")
        self._checksum = digest_bytes(conversion.settings.id_key)

    def setup(self) -> None:
        """Makes the sandbox, whose process starts at the first case."""
        key = read_key(self._conversion.key_folder)
        if digest_bytes(key) != self._checksum:
            raise DataError(
                self._conversion.key_folder,
                "holds another key on this worker",
                "mount the folder of the build",
            )
        self._conversion = _with_key(self._conversion, key)
        self._sandbox = Sandbox(self._conversion.settings.reading.memory_bytes, convert_case)

    def teardown(self) -> None:
        """Ends the sandbox's process."""
        self._sandbox.close()

    def process(self, element: Chunk) -> None:
        """Writes a chunk; the outcomes of its cases are read from there."""
        self._conversion.convert_chunk(element, self._sandbox)


def _with_key(conversion: Conversion, key: bytes) -> Conversion:
    settings = dataclasses.replace(conversion.settings, id_key=key)
    return dataclasses.replace(conversion, settings=settings)


def convert_with_beam(
    conversion: Conversion, chunks: Sequence[Chunk], options: PipelineOptions
) -> None:
    """Converts chunks with the runner that the options name."""
    # Runners answer an error with three more attempts, and report it in their own words.
    patient = dataclasses.replace(conversion, fail_fast=False)
    with beam.Pipeline(options=options) as pipeline:
        _ = (
            pipeline
            | "chunks" >> beam.Create(chunks)
            | "spread" >> beam.Reshuffle()
            | "convert" >> beam.ParDo(_ConvertChunk(patient))
        )
