"""`manifest.json`: checksums of the files that records were made from and of the records' files.

It lies in the folder of the records, so that changes or damage to either can be detected later.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
from collections.abc import Mapping

from etils import epath

from lungseg_jax.errors import DataError
from lungseg_jax.file_digest import FileDigest, digest_file
from lungseg_jax.imaging.find_files import unreadable
from lungseg_jax.paths import write_whole
from lungseg_jax.runtime.cores import usable_cores
from tfds_builder.records_folder import RECORD_FILES, open_folder, shards

MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The files of a folder of records and those that they were made from.

    Attributes:
      files: source files, by path relative to the data set's folder.
      records: files in the folder of records, by name.
      counts: number of examples of each split.
    """

    files: Mapping[str, FileDigest]
    records: Mapping[str, FileDigest]
    counts: Mapping[str, int]


def write_manifest(folder: epath.PathLike, files: Mapping[str, FileDigest]) -> Manifest:
    """Writes `manifest.json` into a folder of finished records, and returns what it holds.

    Args:
      folder: holds the shards, `dataset_info.json` and `features.json`.
      files: digest of each source file, by its path relative to the data set's folder.

    Raises:
      DataError: the folder holds no finished records.
    """
    folder = epath.Path(folder)
    builder = open_folder(folder)
    names = sorted([*RECORD_FILES, *(shard.path.name for shard in shards(builder))])
    with concurrent.futures.ThreadPoolExecutor(usable_cores()) as pool:
        digests = pool.map(digest_file, (folder / name for name in names))
    manifest = Manifest(
        files=dict(sorted(files.items())),
        records=dict(zip(names, digests, strict=True)),
        counts={name: split.num_examples for name, split in builder.info.splits.items()},
    )
    text = json.dumps(dataclasses.asdict(manifest), indent=1) + "\n"
    write_whole(folder / MANIFEST, text.encode())
    return manifest


def read_manifest(folder: epath.PathLike) -> Manifest:
    """Returns the manifest of a folder of records.

    Raises:
      DataError: there is none, or it is not of the form that `write_manifest` writes.
    """
    path = epath.Path(folder) / MANIFEST
    remedy = "remove the folder to have the records built again"
    try:
        content = json.loads(path.read_text())
        return Manifest(
            files=_digests(content["files"]),
            records=_digests(content["records"]),
            counts={str(name): int(count) for name, count in content["counts"].items()},
        )
    except FileNotFoundError as error:
        raise DataError(path, "absent", remedy) from error
    except OSError as error:
        # What cannot be read may be whole.
        raise unreadable(path, error) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(path, "is no manifest", remedy) from error


def content_of(folder: epath.PathLike, split: str) -> str:
    """Returns a checksum of the records of a split, from the manifest of their folder.

    Raises:
      DataError: there is no manifest.
    """
    records = read_manifest(folder).records
    digests = [digest.sha256 for name, digest in sorted(records.items()) if f"-{split}." in name]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _digests(content: Mapping[str, Mapping]) -> dict[str, FileDigest]:
    return {
        name: FileDigest(str(digest["sha256"]), int(digest["bytes"]))
        for name, digest in content.items()
    }
