"""The examples of a split, read from TFDS records by position."""

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import grain
import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jaxtyping import UInt8, UInt16

from lungseg_jax.config import NO_FOLD, Config, DataConfig, Labels
from lungseg_jax.data.labels import channels, has_sides, missing, present_in, tells_sides
from lungseg_jax.data.samples import Samples
from lungseg_jax.errors import CheckpointError, ConfigError, DataError
from lungseg_jax.imaging.geometry import Box
from lungseg_jax.imaging.radiograph import read_options
from lungseg_jax.imaging.structures import Structure
from tfds_builder.build_report import digest_of_images, read_build_report
from tfds_builder.chest_xray_lungs.chest_xray_lungs_dataset_builder import Builder, LungsConfig
from tfds_builder.data_report import ensure_data_report
from tfds_builder.fields import READING_THREADS, Fields
from tfds_builder.manifest import content_of
from tfds_builder.prepare import prepare
from tfds_builder.sources import SOURCES_WITHOUT_SIDES, FolderPatterns
from tfds_builder.splits import SPLITS

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions


@dataclasses.dataclass(frozen=True)
class Example:
    """One record as evaluation needs it.

    Attributes:
      example_id: unique in the data set.
      source: where the image was taken.
      original_mask: {0, 1} in the image's own frame, a channel for each of the labels.
      field: the part of the image's own frame that its square shows.
      spacing_mm: (row, column) of the original frame; `None` where not known.
    """

    example_id: str
    source: str
    original_mask: UInt8[np.ndarray, "h w c"]
    field: Box
    spacing_mm: tuple[float, float] | None


class Metadata(NamedTuple):
    """What a record is called, and whom it shows.

    Attributes:
      example_id: unique in the data set.
      source: where the image was taken.
      patient_id: the patient's id, a keyed hash where it is secret.
      finding: the finding of the image, or of the patient.
      sex: `F`, `M` or empty.
      age_years: NaN where it is not known.
    """

    example_id: str
    source: str
    patient_id: str
    finding: str
    sex: str
    age_years: float


class Records:
    """The examples of one split; positions are those in the records and never change.

    Attributes:
      split: the split's name.
      name: the records' name; other inputs give another name.
      content: a checksum of the split's records.
      folder: the folder of the records of all splits.
      image_size: side of the images in pixels.
      labels: what the channels of the masks are.
    """

    def __init__(self, builder: Builder, split: str, labels: Labels) -> None:
        info: Any = builder.info
        fields = Fields(builder, split)
        self._samples = fields.select("example_id", "image", "mask")
        self._images = fields.select("image")
        self._examples = fields.select(
            "example_id", "source", "spacing_mm", "field", "original_mask"
        )
        self._metadata = fields.select(*Metadata._fields)
        self._known: dict[int, Metadata] = {}
        # So that a truncated shard is reported before the first step.
        for chosen in (self._samples, self._examples):
            chosen.read([len(fields) - 1])
        self.split = split
        self.labels: Labels = labels
        self.name: str = info.config_name
        self.folder = builder.data_path
        self.content = content_of(self.folder, split)
        self.image_size: int = info.features["image"].shape[0]

    def __len__(self) -> int:
        return len(self._metadata)

    @property
    def builder_version(self) -> str:
        """The version of the builder that made them."""
        return self.folder.name

    @functools.cached_property
    def images_digest(self) -> str | None:
        """A checksum of the files that all splits were made from; `None` if no report tells.

        See `digest_of_images`.
        """
        try:
            report = read_build_report(self.folder)
        except DataError:
            return None
        return None if report is None else digest_of_images(report)

    def samples(self, positions: Sequence[int]) -> Samples:
        """Returns the images and masks at the positions, in their order.

        Raises:
          DataError: a record is damaged, or a mask does not tell the sides that the labels ask for.
        """
        records = self._samples.read(positions)
        return Samples(
            np.stack([record["image"] for record in records]),
            np.stack([self._channels(record, "mask") for record in records]),
        )

    def images(self, positions: Sequence[int]) -> UInt16[np.ndarray, "b s s 1"]:
        """Returns the images alone, in their order.

        Raises:
          DataError: a record is damaged.
        """
        return np.stack([record["image"] for record in self._images.read(positions)])

    def images_in_batches(
        self, batches: Sequence[Sequence[int]], batch_size: int
    ) -> Iterator[UInt16[np.ndarray, "b s s 1"]]:
        """Yields images in batches of one size, padded with black ones.

        Threads read the next batch while one is used.

        Args:
          batches: the positions of each batch's images.
          batch_size: size of every batch.
        """
        positions = list(itertools.chain.from_iterable(batches))
        images: Any = grain.MapDataset.source(positions).map(
            lambda position: self.images([position])[0]
        )
        options = grain.ReadOptions(
            num_threads=READING_THREADS, prefetch_buffer_size=max(16, batch_size)
        )
        ready = iter(images.to_iter_dataset(options)) if positions else iter(())
        for batch_positions in batches:
            batch = np.zeros((batch_size, self.image_size, self.image_size, 1), np.uint16)
            for place in range(len(batch_positions)):
                batch[place] = next(ready)
            yield batch

    def example(self, position: int) -> Example:
        """Returns the whole example at a position.

        Raises:
          DataError: it is damaged, or its mask does not tell the sides that the labels ask for.
        """
        (record,) = self._examples.read([position])
        row, column = (float(x) for x in record["spacing_mm"])
        return Example(
            example_id=record["example_id"].decode(),
            source=record["source"].decode(),
            original_mask=self._channels(record, "original_mask"),
            field=Box.of(record["field"]),
            spacing_mm=(row, column) if row > 0 and column > 0 else None,
        )

    def metadata(self, position: int) -> Metadata:
        """Returns what the example at a position is called, and whom it shows.

        It is read once: every validation asks for all of a split, on every host.
        """
        if position not in self._known:
            (record,) = self._metadata.read([position])
            *words, age_years = (record[name] for name in Metadata._fields)
            self._known[position] = Metadata(
                *(word.decode() for word in words), age_years=float(age_years)
            )
        return self._known[position]

    def has_sides(self) -> bool:
        """Whether the first example's mask tells right from left."""
        (record,) = self._samples.read([0])
        return has_sides(record["mask"])

    def missing_structures(self) -> tuple[Structure, ...]:
        """Returns the structures of the labels that no mask marks.

        One mask may lack a structure, as that of a patient with one lung does: the masks are read
        up to the one that completes them, which is the first in most data sets.
        """
        present = Structure(0)
        for position in range(len(self)):
            (record,) = self._samples.read([position])
            present |= present_in(record["mask"])
            if not missing(self.labels, present):
                break
        return missing(self.labels, present)

    def _channels(self, record: dict[str, Any], name: str) -> UInt8[np.ndarray, "h w c"]:
        return channels(record[name], self.labels, record["example_id"].decode())


def open_records(config: Config) -> dict[str, Records]:
    """Returns the records of every split, building them first if they do not exist.

    In a job of several processes the first one builds and the others wait for it.

    Raises:
      DataError: the source files are missing or broken.
      ConfigError: the split file is not valid, or the masks do not tell the sides that the labels
        ask for.
    """
    # Before building, which takes minutes.
    if tells_sides(config.data.labels) and config.data.source in SOURCES_WITHOUT_SIDES:
        raise _no_sides(config.data)
    if jax.process_count() > 1:
        _prepare_on_first(lambda: build_records(config))
    builder = build_records(config)
    records = {split: Records(builder, split, config.data.labels) for split in SPLITS}
    _check_labels(config.data, records)
    return records


def identity(records: dict[str, Records]) -> dict[str, str]:
    """Returns what identifies records: their name, a checksum of all, and what they were made from.

    Records of copied files differ in name, but not in content; where identifiers of patients are
    secret, another key makes them differ in both.
    """
    contents = [f"{split} {examples.content}" for split, examples in sorted(records.items())]
    content = hashlib.sha256("\n".join(contents).encode()).hexdigest()
    found = {"records": records["train"].name, "content": content}
    if images := records["train"].images_digest:
        # Another version of the builder may read the same files differently.
        found["images"] = f"{records['train'].builder_version} {images}"
    return found


def are_same_records(data_state: dict[str, Any], records: dict[str, Records]) -> bool:
    """Whether a checkpoint was trained on these records, by anything that identifies them.

    Args:
      data_state: the checkpoint's `data_state`.
      records: the records of each split.
    """
    identities = identity(records)
    return any(data_state.get(key) == identities[key] for key in identities)


def check_same_records(
    workdir: epath.Path, data_state: dict[str, Any], records: dict[str, Records]
) -> None:
    """Checks that a checkpoint was trained on these records: others are split differently.

    Raises:
      CheckpointError: it was not.
    """
    if not are_same_records(data_state, records):
        raise CheckpointError(
            workdir,
            f"was trained on the records {data_state['records']}, but the data now give "
            f"{records['train'].name}, with other content",
            "restore the data and the version it was trained with (its environment.json tells), or "
            "use another --workdir; lungseg_jax.validate measures its weights all the same",
        )


def build_records(config: Config, beam_options: "PipelineOptions | None" = None) -> Builder:
    """Returns the records' builder, with the records and the report on them in place.

    Raises:
      DataError: the source files are missing or broken.
      ConfigError: the split file is not valid.
    """
    data = config.data
    lungs = LungsConfig(
        source=data.source,
        image_size=data.image_size,
        seed=config.seed,
        splits=data.splits,
        fold=None if config.fold == NO_FOLD else config.fold,
        num_phantoms=data.num_phantoms,
        patterns=FolderPatterns(data.images, data.masks),
        reading=read_options(data),
        on_error=data.on_error,
        max_bad_share=data.max_bad_share,
    )
    builder = prepare(lungs, data.data_dir, data.manual_dir, beam_options)
    ensure_data_report(builder.data_path)
    return builder


def _check_labels(data: DataConfig, records: dict[str, Records]) -> None:
    """Checks that there is something to learn for each class.

    For sides, one example of each split tells at once for most sources whether they have them.
    """
    if tells_sides(data.labels) and not all(one.has_sides() for one in records.values()):
        raise _no_sides(data)
    if absent := records["train"].missing_structures():
        names = " and ".join(str(one.name).lower().replace("_", " ") for one in absent)
        raise ConfigError(
            "data.labels",
            f"is {data.labels}, but no mask that source {data.source} gives to train on marks: "
            f"{names}",
            "give other labels, or a source with masks of all of them",
        )


def _no_sides(data: DataConfig) -> ConfigError:
    return ConfigError(
        "data.labels",
        f"is {data.labels}, but masks of source {data.source} do not tell right from left",
        "give lungs, or a source with a mask per lung: phantom, montgomery, jsrt, or folder "
        "with left and right masks",
    )


def _prepare_on_first(prepare_records: Callable[[], Builder]) -> None:
    """Runs in the first process while the others wait for it, and fails in all if it fails."""
    error = None
    if jax.process_index() == 0:
        try:
            prepare_records()
        # Of whatever library: the others would wait for ever.
        except Exception as caught:  # noqa: BLE001
            error = caught
    failed = multihost_utils.broadcast_one_to_all(np.asarray(error is not None))
    if error is not None:
        raise error
    if failed:
        raise DataError("records", "the first process could not build them", "see its message")
