"""The TFDS builder of `chest_xray_lungs`."""

import dataclasses
import functools
import hashlib
import os
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from tensorflow_datasets.core.writer import ExampleWriter
from tensorflow_datasets.proto import tf_example_pb2

from lungseg_jax.config import DataConfig, SourceName
from lungseg_jax.errors import ConfigError, DataError, UserError
from lungseg_jax.imaging.radiograph import ReadOptions
from tfds_builder import phantom_files, splits
from tfds_builder.build_lock import one_build_at_a_time
from tfds_builder.build_report import file_entries, read_digests, write_report
from tfds_builder.conversion import Chunk, Conversion, Place
from tfds_builder.convert_all import convert_chunks
from tfds_builder.convert_case import ConvertSettings
from tfds_builder.id_key import read_or_make_key
from tfds_builder.manifest import write_manifest
from tfds_builder.outcome import Outcome
from tfds_builder.sources import FolderPatterns, Listing, list_source

# TFDS holds a shard in memory while it writes it.
SHARD_BYTES = 100 * 2**20


@dataclasses.dataclass(eq=False, kw_only=True)
class LungsConfig(tfds.core.BuilderConfig):
    """What the records are made from.

    Attributes:
      source: folder layout.
      image_size: side of the model's square in pixels.
      seed: seed of the split and of the phantoms.
      splits: JSON file that gives the splits instead; empty for none.
      fold: fold of cross-validation, from 0; `None` for a single split.
      num_phantoms: how many phantoms to generate, for the source `phantom`.
      patterns: names of images and masks, for the source `folder`.
      reading: how files are read.
      on_error: whether a bad file ends the build or is left out.
      max_bad_share: share of bad cases above which even `skip` ends the build.
    """

    name: str = ""
    source: SourceName = "phantom"
    image_size: int = DataConfig.image_size
    seed: int = 0
    splits: str = ""
    fold: int | None = None
    num_phantoms: int = DataConfig.num_phantoms
    patterns: FolderPatterns = dataclasses.field(default_factory=FolderPatterns)
    reading: ReadOptions = dataclasses.field(default_factory=ReadOptions)
    on_error: Literal["fail", "skip"] = "fail"
    max_bad_share: float = DataConfig.max_bad_share


class Builder(tfds.core.ShardBasedBuilder):
    """Builder of chest radiographs with lung masks.

    Records are divided into shards here, because TFDS's own shuffler keeps up to a gibibyte of
    records in memory and needs TensorFlow beyond that.
    """

    VERSION = tfds.core.Version("2.2.1")
    RELEASE_NOTES: ClassVar = {
        "2.2.1": "Masks of another size are resized; stored bits of compressed words by HighBit; "
        "the first window where the next is empty; more calibrated spacings.",
        "2.2.0": "Of images with wide bars, squares show the exposed field; masks may be DICOM "
        "SEG.",
        "2.1.9": "Chests within wide black bars are not taken for masks; sex and age by headers, "
        "if wanted.",
        "2.1.8": "White bars, and what a DICOM shutter hides, are black; broken VOI LUTs give way "
        "to windows; spacing of scanned films; slips in headers are forgiven.",
        "2.1.7": "Images with a mask are taken, and noted, though they do not look like chests.",
        "2.1.6": "Of pixels that a mask covers to exactly half, every other one is lung.",
        "2.1.5": "Patients by study where there is no PatientID; outliers of 16-bit PNG are cut.",
        "2.1.4": "Images are PNG without compression, with the same pixels.",
        "2.1.3": "PNG of sixteen bits in colour or with opacity is read whole, and turned as Exif "
        "says; masks of labels, or white where they are transparent, are refused.",
        "2.1.2": "DICOM VOI LUTs of fewer bits than they state span black to white.",
        "2.1.1": "DICOM windows beside all values of an image are not used.",
        "2.1.0": "JPEG images; masks among the images are left out.",
        "2.0.0": "Masks hold a bit for each structure; clinical readings; every public layout.",
        "1.0.0": "Phantoms and Kaggle's Chest Xray Masks and Labels.",
    }
    BUILDER_CONFIGS: ClassVar = [
        LungsConfig(name=f"{source}_{size}", source=source, image_size=size)
        for source in typing.get_args(SourceName)
        for size in (256, 512)
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "kaggle: 'Chest Xray Masks and Labels' (nikhilpandey360/chest-xray-masks-and-labels) from "
        "Kaggle; montgomery, shenzhen: the National Library of Medicine's tuberculosis sets; jsrt: "
        "JSRT's images with the SCR masks. Unpack what you downloaded into the manual folder. "
        "phantom: nothing to do."
    )

    # What the source's folder holds; `None` to search it.
    listing: Listing | None = None

    # Options of the Beam pipeline that converts the files; `None` for the cores of this machine.
    beam_options: Any = None

    # Whether the caller keeps other builds away and writes the manifest, as `prepare` does.
    attended = False

    # Kept, because naming the chunks examines every file.
    _opened: tuple[Conversion, list[Chunk]] | None = None

    def __init__(
        self, *, file_format: str | tfds.core.FileFormat | None = None, **others: Any
    ) -> None:
        """See `tfds.core.DatasetBuilder`; TFDS's own default format needs TensorFlow.

        Raises:
          ConfigError: the configuration has no name.
        """
        super().__init__(file_format=file_format, **others)
        if not self._lungs.name:
            raise ConfigError(
                "LungsConfig.name",
                "is empty, so that all such configurations would share their records",
                "name each configuration",
            )
        # Records that exist are in the format that they were written in.
        if file_format is None and not self.is_prepared():
            self.info.set_file_format(tfds.core.FileFormat.ARRAY_RECORD, override=True)

    def download_and_prepare(
        self,
        *,
        download_dir: epath.PathLike | None = None,
        download_config: tfds.download.DownloadConfig | None = None,
        **others: Any,
    ) -> None:
        """See `tfds.core.DatasetBuilder`; builds one at a time, and ends with the manifest."""
        config = download_config or tfds.download.DownloadConfig()
        downloads = epath.Path(download_dir or self.data_dir_root / "downloads")
        build = functools.partial(
            super().download_and_prepare,
            download_dir=downloads,
            download_config=config,
            **others,
        )
        overwrite = config.download_mode.overwrite_dataset
        # Where records exist nothing is written, because they may lie where that is not allowed.
        if self.attended or (self.is_prepared() and not overwrite):
            build()
            return
        with one_build_at_a_time(downloads):
            if self.is_prepared() and not overwrite:
                # Another process has built them since this builder looked.
                self.info.read_from_directory(self.data_path)
                return
            build()
            # What reads the manifest reads no other format.
            if self.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
                write_manifest(self.data_path, read_digests(self.data_path))

    @property
    def _lungs(self) -> LungsConfig:
        config = self.builder_config
        assert isinstance(config, LungsConfig)
        return config

    def _info(self) -> tfds.core.DatasetInfo:
        size = self._lungs.image_size
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(
                    shape=(size, size, 1),
                    dtype=np.uint16,
                    encoding_format="png",
                    doc="Intensity in [0, 1] times 65535, bone bright.",
                ),
                "mask": tfds.features.Image(
                    shape=(size, size, 1),
                    encoding_format="png",
                    doc="Bits: 1 lung, 2 right lung, 4 left lung, 8 heart, 16 clavicle.",
                ),
                "original_mask": tfds.features.Image(
                    shape=(None, None, 1), encoding_format="png", doc="At the image's own size."
                ),
                "example_id": tfds.features.Text(),
                "patient_id": tfds.features.Text(),
                "source": tfds.features.Text(),
                "finding": tfds.features.Text(),
                "sex": tfds.features.Text(doc="F, M or empty."),
                "age_years": tfds.features.Scalar(np.float32, doc="NaN where not known."),
                "reading": tfds.features.Text(doc="The radiologist's words."),
                "original_size": tfds.features.Tensor(
                    shape=(2,), dtype=np.int32, doc="Height and width in pixels."
                ),
                "field": tfds.features.Tensor(
                    shape=(4,),
                    dtype=np.int32,
                    doc="What image and mask show of it: top, left, height, width.",
                ),
                "spacing_mm": tfds.features.Tensor(
                    shape=(2,), dtype=np.float32, doc="Row and column; 0 where not known."
                ),
                "spacing_source": tfds.features.Text(),
                "notes": tfds.features.Text(doc="Corrections and doubts."),
            }
        )
        metadata = self.get_metadata()
        return _LocalInfo(
            builder=self,
            description=metadata.description,
            citation=metadata.citation,
            features=features,
            supervised_keys=("image", "mask"),
            disable_shuffling=False,
        )

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, list[Callable[[], Iterator[tuple[str, dict[str, Any]]]]]]:
        config = self._lungs
        downloads = epath.Path(dl_manager.download_dir)
        listing = self.listing
        if listing is None and config.source == "phantom":
            listing = _phantoms(config, downloads)
        elif listing is None:
            # TFDS raises if the manual folder is asked for and was not given.
            listing = list_source(config.source, dl_manager.manual_dir, config.patterns)
        conversion, chunks = self._open_conversion(listing, downloads)
        converted = convert_chunks(conversion, chunks, self.beam_options)
        # Where a build that fails below leaves its report.
        draft = downloads / "reports" / config.name
        try:
            _check_share_of_bad(converted.outcomes, config.max_bad_share, listing, draft)
            _check_some_lung(converted.outcomes, draft)
            ids = _split(converted.outcomes, config)
        except UserError:
            write_report(draft, file_entries(listing, converted.outcomes, {}))
            raise
        # Into the folder that TFDS renames when the records are complete.
        write_report(self.data_path, file_entries(listing, converted.outcomes, ids))
        draft.rmtree(missing_ok=True)
        return {
            name: _cut_into_shards(
                [converted.places[example_id] for example_id in split_ids], config.image_size
            )
            for name, split_ids in ids.items()
        }

    def _example_writer(self) -> ExampleWriter:
        if self.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
            return PlainArrayRecordWriter(self.info.file_format)
        return super()._example_writer()

    def remove_chunks(self, downloads: epath.Path) -> None:
        """Removes what any process had kept in case the build was interrupted.

        Args:
          downloads: the folder that the build was given.
        """
        if self._opened is None:
            self._open_conversion(self.listing or _phantoms(self._lungs, downloads), downloads)
        assert self._opened is not None
        conversion, chunks = self._opened
        conversion.remove(chunks)

    def _open_conversion(
        self, listing: Listing, downloads: epath.Path
    ) -> tuple[Conversion, list[Chunk]]:
        config = self._lungs
        settings = ConvertSettings(config.image_size, read_or_make_key(downloads), config.reading)
        # By version, because another one writes other records from the same files.
        folder = downloads / "converted" / str(self.VERSION)
        conversion = Conversion(folder, settings, downloads, fail_fast=config.on_error == "fail")
        self._opened = conversion, conversion.cut(listing.cases)
        return self._opened


class _LocalInfo(tfds.core.DatasetInfo):
    """What TFDS knows of records that its own bucket never holds."""

    def initialize_from_bucket(self) -> None:
        """Does nothing, where TFDS would leave an empty temporary folder behind."""


class PlainArrayRecordWriter(ExampleWriter):
    """Writes ArrayRecord shards without compression, with the same bytes in every build.

    Compression would make shards of 256 x 256 pixels a tenth smaller, in ten times the time.
    Runs recognise their records by the bytes of the shards, but TFDS leaves the order of a record's
    fields to protobuf, which mixes them anew in each process.
    """

    def write(
        self, path: epath.PathLike, examples: Iterable[tuple[int | str | bytes, bytes]]
    ) -> None:
        """Writes serialized examples in order, one per group, so that each can be read alone."""
        writer = ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")
        for _, serialized in examples:
            example = tf_example_pb2.Example.FromString(serialized)  # pyright: ignore
            writer.write(example.SerializeToString(deterministic=True))
        writer.close()


def _split(outcomes: Sequence[Outcome], config: LungsConfig) -> dict[str, list[str]]:
    """Returns the ids of each split's examples."""
    if config.splits:
        return splits.read_splits(config.splits, outcomes)
    taken = [outcome for outcome in outcomes if outcome.status == "taken"]
    if config.fold is not None:
        return splits.assign_fold(taken, config.seed, config.fold)
    return splits.assign_splits(taken, config.seed)


def _cut_into_shards(
    places: Sequence[Place], image_size: int
) -> list[Callable[[], Iterator[tuple[str, dict[str, Any]]]]]:
    """Returns the shards of a split, each a function that yields its records, in mixed order."""
    length = max(1, SHARD_BYTES // (2 * image_size**2))
    # Any part of a split is then like any other part.
    mixed = sorted(places, key=lambda place: hashlib.sha256(place.example_id.encode()).digest())
    return [
        functools.partial(_read_records, mixed[start : start + length])
        for start in range(0, len(mixed), length)
    ]


def _read_records(places: Sequence[Place]) -> Iterator[tuple[str, dict[str, Any]]]:
    for place in places:
        yield place.example_id, place.read()


def _phantoms(config: LungsConfig, downloads: epath.Path) -> Listing:
    """Returns the phantoms, after writing them if they do not exist."""
    # The name holds the generator's version, so that phantoms of an older one are not reused.
    name = f"phantoms-{phantom_files.VERSION}-{config.num_phantoms}-{config.seed}"
    phantom_files.write_phantoms(Path(downloads / name), config.num_phantoms, config.seed)
    phantom_files.check_complete(Path(downloads / name), config.num_phantoms)
    return list_source(config.source, downloads / name, config.patterns)


def _check_some_lung(outcomes: Sequence[Outcome], draft: epath.Path) -> None:
    """Refuses masks none of which marks a lung: finding none would score a perfect Dice."""
    taken = [outcome for outcome in outcomes if outcome.status == "taken"]
    if taken and not any(outcome.has_lung for outcome in taken):
        raise DataError(
            "data.manual_dir",
            f"none of the {len(taken)} images has lung in its mask",
            f"mark lung with 255 or with 1; all files are listed in {draft}",
        )


def _check_share_of_bad(
    outcomes: Sequence[Outcome], largest: float, listing: Listing, draft: epath.Path
) -> None:
    bad = [outcome for outcome in outcomes if outcome.status == "bad"]
    if len(bad) > largest * len(outcomes):
        first = "; ".join(
            f"{os.path.relpath(outcome.subject, listing.root)}: {outcome.fault}"
            for outcome in bad[:3]
        )
        raise DataError(
            "data.manual_dir",
            f"{len(bad)} of {len(outcomes)} images are bad, more than a share of {largest:g} "
            f"({first})",
            f"fix the files or raise data.max_bad_share; all are listed in {draft}",
        )
