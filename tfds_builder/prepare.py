"""Provides records on disk for a configuration: finds them if they exist, builds them if not."""

import contextlib
import dataclasses
import grp
import hashlib
import io
import json
import pwd
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import tensorflow_datasets as tfds
from etils import epath

from lungseg_jax import terminal
from lungseg_jax.config import NUM_FOLDS
from lungseg_jax.errors import DataError
from lungseg_jax.paths import check_is_utf8
from tfds_builder import phantom_files
from tfds_builder.build_lock import one_build_at_a_time
from tfds_builder.build_report import REPORT, SUMMARY, read_digests
from tfds_builder.chest_xray_lungs.chest_xray_lungs_dataset_builder import Builder, LungsConfig
from tfds_builder.conversion import describe_case
from tfds_builder.manifest import MANIFEST, write_manifest
from tfds_builder.records_folder import REBUILD, open_folder
from tfds_builder.sources import list_source
from tfds_builder.splits import read_split_file

# Each case as `describe_case` returns it.
Cases = Sequence[list[Any]] | None

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions


def prepare(
    config: LungsConfig,
    data_dir: epath.PathLike,
    manual_dir: epath.PathLike,
    beam_options: "PipelineOptions | None" = None,
) -> Builder:
    """Returns a builder whose records exist and were made from exactly these inputs.

    The builder configuration is named by a fingerprint of everything that records depend on: a
    changed file, split or size leads to new records, never to stale ones. TFDS writes into a
    temporary folder and renames it, so that an interrupted build is never taken for a complete one.
    What was converted for one fold of cross-validation is kept until the records of all five exist.

    Args:
      config: what the records are made from; its name is derived.
      data_dir: where records (and phantoms) are kept.
      manual_dir: the data set's folder; unused for phantoms.
      beam_options: options of the Apache Beam pipeline that builds the records; `None` to build
        them on all cores of this machine.

    Raises:
      DataError: a file or folder is missing or broken; nothing that looks complete is left behind.
      ConfigError: the split file is not valid, or the path of `data_dir` is not in UTF-8.
    """
    data_dir = epath.Path(data_dir).expanduser()
    check_is_utf8(data_dir)
    listing = cases = None
    if config.source != "phantom":
        listing = list_source(config.source, manual_dir, config.patterns)
        terminal.say(f"{config.source}: {listing.describe()}")
        cases = [describe_case(case, listing.root) for case in listing.cases]
    builder = _builder(config, cases, data_dir)
    downloads = data_dir / "downloads"
    if builder.is_prepared() and (builder.data_path / MANIFEST).exists():
        # Nothing is written, because finished records may lie where writing is not allowed.
        return builder
    with one_build_at_a_time(downloads):
        # Made anew, because a builder learns what exists when it is made, and another process may
        # have built the records since.
        builder = _builder(config, cases, data_dir)
        builder.listing, builder.beam_options = listing, beam_options
        builder.attended = True
        if not builder.is_prepared():
            terminal.say(f"Building records in {builder.data_path}")
            # What builds that were killed left, whose name TFDS chooses.
            for left in builder.data_path.parent.glob("incomplete.*"):
                left.rmtree()
            _build(builder, downloads, manual_dir if listing else None)
            terminal.say((builder.data_path / SUMMARY).read_text(encoding="utf-8"))
            terminal.say(f"What became of each file: {builder.data_path / REPORT}")
        # Here, not in the build: a process killed in between leaves the rest to the next one. The
        # manifest, written last, shows that everything is done.
        folds = [dataclasses.replace(config, fold=fold) for fold in range(NUM_FOLDS)]
        built = sum(_builder(fold, cases, data_dir).is_prepared() for fold in folds)
        # Other folds still need it.
        if not 0 < built < NUM_FOLDS:
            builder.remove_chunks(downloads)
        if not (builder.data_path / MANIFEST).exists():
            write_manifest(builder.data_path, read_digests(builder.data_path))
    return builder


def _builder(config: LungsConfig, cases: Cases, data_dir: epath.Path) -> Builder:
    """Returns the builder of records, which reads what is known of them if they exist.

    Raises:
      DataError: their folder has lost that, or it is damaged.
    """
    name = f"{config.source}_{config.image_size}_{fingerprint(config, cases)}"
    config = dataclasses.replace(config, name=name)
    folder = data_dir / Builder.name / name / str(Builder.VERSION)
    # TFDS takes any folder for finished records, and lets through what its parsers raise.
    if folder.exists():
        try:
            open_folder(folder)
        except DataError as error:
            if isinstance(error.__cause__, OSError):
                raise
            raise DataError(error.subject, error.fault, REBUILD) from error
    return Builder(data_dir=data_dir, config=config)


def _build(builder: Builder, downloads: epath.Path, manual_dir: epath.PathLike | None) -> None:
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    # TFDS announces a download of unknown size on standard output, which is reserved for data.
    with contextlib.redirect_stdout(io.StringIO()), _owners_without_names():
        builder.download_and_prepare(
            download_dir=downloads,
            download_config=tfds.download.DownloadConfig(
                manual_dir=epath.Path(manual_dir).expanduser() if manual_dir else None
            ),
        )


@contextlib.contextmanager
def _owners_without_names() -> Iterator[None]:
    """Lets TFDS look at files of users and groups that this machine has no names for.

    Containers run under such numbers (`docker run --user`, OpenShift). For the size of a file, TFDS
    also has epath look up who owns it, which raises a KeyError.
    """
    user_of, group_of = pwd.getpwuid, grp.getgrgid

    def user_or_number(number: int) -> pwd.struct_passwd:
        try:
            return user_of(number)
        except KeyError:
            return pwd.struct_passwd((str(number), "", number, number, "", "", ""))

    def group_or_number(number: int) -> grp.struct_group:
        try:
            return group_of(number)
        except KeyError:
            return grp.struct_group((str(number), "", number, []))

    pwd.getpwuid, grp.getgrgid = user_or_number, group_or_number
    try:
        yield
    finally:
        pwd.getpwuid, grp.getgrgid = user_of, group_of


def fingerprint(config: LungsConfig, cases: Cases) -> str:
    """Returns a short hash of what records are made from: settings, split file, cases, file times.

    Args:
      config: configuration of the records.
      cases: the described cases; `None` for phantoms.

    Raises:
      ConfigError: the split file is not a split file.
    """
    made_of = {
        "version": str(Builder.VERSION),
        "source": config.source,
        "image_size": config.image_size,
        # It determines the split, and the phantoms.
        "seed": config.seed if cases is None or not config.splits else None,
        "splits": read_split_file(config.splits) if config.splits else None,
        "fold": config.fold,
        "num_phantoms": [config.num_phantoms, phantom_files.VERSION] if cases is None else None,
        "reading": repr(config.reading),
        "on_error": config.on_error,
        "cases": cases,
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:12]
