"""Folders on disk and in Google Cloud Storage, their files' names, and how these are written."""

import contextlib
import errno
import os
import secrets
import stat
import unicodedata
from pathlib import Path
from typing import Any, Literal, TextIO

from etils import epath

from lungseg_jax.errors import ConfigError, DataError, first_line

# What addresses of folders in Google Cloud Storage begin with.
BUCKETS = "gs://"

# The file that `lungseg_jax.validate` and `measure` write beside their figures, which marks their
# folders.
VALIDATION = "validation.json"

# What names of files end in that are being written.
_UNFINISHED = ".new"

# The file that names the images of each split of a run.
SPLITS = "splits.json"


def run_folder(path: epath.PathLike) -> epath.Path:
    """Returns the folder of a run: on disk, or `gs://BUCKET/FOLDER` in Google Cloud Storage.

    Raises:
      ConfigError: another kind of address, a bucket that cannot be looked up, or a path not in
        UTF-8.
      DataError: no path at all.
    """
    name = _checked(path)
    # With one slash it would be a folder of that name on disk.
    if ("://" in name or name.startswith("gs:")) and not name.startswith(BUCKETS):
        raise ConfigError(name, "is no folder", f"give a path, or {BUCKETS}BUCKET/FOLDER")
    folder = epath.Path(path).expanduser()
    if is_in_bucket(folder):
        _open_bucket(folder)
    check_is_utf8(folder)
    return folder


def local_path(path: epath.PathLike) -> epath.Path:
    """Returns a path on disk, `~` expanded, where nothing else can be read or written.

    Raises:
      DataError: it is an address, or no path at all.
    """
    name = _checked(path)
    if "://" in name or is_in_bucket(epath.Path(path)):
        raise DataError(name, "is not on disk", "copy files there, and give a path")
    return epath.Path(path).expanduser()


def check_is_utf8(folder: epath.Path) -> None:
    """Checks that Orbax and ArrayRecord, to which paths are UTF-8, find the same folder as Python.

    Raises:
      ConfigError: its path on disk is not in UTF-8, or the locale's encoding makes it another one.
    """
    name = os.fspath(Path(folder).absolute())
    with contextlib.suppress(UnicodeEncodeError):
        if name.encode() == os.fsencode(name):
            return
    fault = "its path is not in UTF-8, as files of checkpoints and records need"
    raise ConfigError(folder, fault, "set LC_ALL=C.UTF-8, or give a path in UTF-8")


def _checked(path: epath.PathLike) -> str:
    """Returns a path as text; without any, a command would take the current folder."""
    name = os.fspath(path)
    if not name or "\0" in name:
        raise DataError(repr(name), "is no path", "name a file or folder")
    return name


def is_in_bucket(folder: epath.Path) -> bool:
    """Whether a folder is in a bucket: `gs://…`, or `/gs/…`, which epath takes for the same."""
    return os.fspath(folder).startswith(BUCKETS)


def _open_bucket(folder: epath.Path) -> None:
    """Makes a bucket's folder readable as it is, and checks that there is such a bucket."""
    try:
        # Here, because a machine that only measures steps may lack them.
        import fsspec.config
        import gcsfs  # noqa: F401
        from google.cloud import storage
    except ImportError as error:
        fault = f"needs gcsfs and google-cloud-storage ({first_line(error)})"
        raise ConfigError(folder, fault, "pip install gcsfs google-cloud-storage") from error
    # Otherwise listings are cached for the life of the process: what TensorStore and other hosts
    # write would not be seen, and files that grew would be cut off at their old size.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    try:
        # As Orbax does before it lists checkpoints, which takes a permission that few roles have.
        storage.Client().get_bucket(folder.parts[2])
    # Login and network errors each have types of their own.
    except Exception as error:
        raise ConfigError(
            folder,
            f"its bucket cannot be looked up ({type(error).__name__}: {first_line(error)})",
            "check its name and your right to storage.buckets.get; "
            "gcloud auth application-default login logs in",
        ) from error


def same_file_key(name: str) -> str:
    """Returns what is equal for names that some file system takes for those of one file.

    Shares and disks of Windows and macOS ignore case, and how accents are encoded.
    """
    return unicodedata.normalize("NFD", name).casefold()


def make_folder(output: epath.Path) -> None:
    """Makes a folder for results, if there is none.

    Raises:
      DataError: it cannot be made.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise DataError(output, "is a file or inside one", "give another folder") from error
    except OSError as error:
        fault = f"cannot be made ({error.strerror})"
        raise DataError(output, fault, "give a folder that you may write to") from error


def read_file(path: epath.Path) -> str:
    """Returns the text, in UTF-8, of a file that others may have put there.

    Raises:
      OSError: it cannot be read, or is a pipe or a device.
    """
    check_has_end(path)
    return path.read_text(encoding="utf-8")


def check_has_end(path: epath.Path) -> None:
    """Checks that a file, if it is there, is no pipe or device, which keep their reader waiting.

    Raises:
      OSError: it is one.
    """
    if not is_in_bucket(path) and path.exists():
        kind = Path(path).stat().st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            raise OSError(errno.EINVAL, "is a pipe or a device, not a file", os.fspath(path))


def write_whole(path: epath.Path, content: bytes) -> None:
    """Writes a file so that a kill or a full disk never leaves half of it.

    A symbolic link in its place is replaced: what it leads to is someone else's.

    Raises:
      OSError: it cannot be written; names the file, not the one that stands in for it meanwhile.
    """
    # A name of its own, because several may write at once, and a short one: the file's own name may
    # be as long as names can be.
    written = path.with_name(f".{secrets.token_hex(8)}{_UNFINISHED}")
    try:
        if is_in_bucket(path):
            written.write_bytes(content)
        else:
            # A new file, or none: a link may have been put there.
            with Path(written).open("xb") as file:
                file.write(content)
        written.replace(path)
    except BaseException as error:
        # Where there is no folder, there is nothing to remove.
        with contextlib.suppress(OSError):
            written.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno:
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise


def remove_unfinished(folder: epath.Path) -> None:
    """Removes what `write_whole` left in a folder on disk when its process was killed.

    Args:
      folder: a folder that no other process writes to.
    """
    for path in Path(folder).glob(f".{'[0-9a-f]' * 16}{_UNFINISHED}"):
        path.unlink(missing_ok=True)


def open_own(path: epath.PathLike, mode: Literal["w", "a", "a+"], **options: Any) -> TextIO:
    """Opens a file of text that is written bit by bit, unless a link stands in its place.

    Raises:
      DataError: it is a symbolic link, whose target is someone else's.
      OSError: it cannot be opened.
    """
    try:
        return open(path, mode, opener=_not_through_links, **options)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise DataError(path, "is a link", "remove it, or give another folder") from error


def _not_through_links(name: str, flags: int) -> int:
    # A pipe is not waited for either.
    return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
