"""What a build did with every file it found."""

import collections
import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence

from etils import epath

from lungseg_jax.errors import DataError
from lungseg_jax.file_digest import FileDigest, digest_file
from lungseg_jax.imaging.find_files import unreadable
from lungseg_jax.paths import read_file
from lungseg_jax.terminal import table, without_numbers
from tfds_builder.outcome import Outcome
from tfds_builder.sources import Listing

REPORT = "build_report.json"
SUMMARY = "build_report.txt"

# Most rows in a table of the summary.
MAX_KINDS = 30


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """One file.

    Attributes:
      file: path below the data set's folder.
      status: `taken`, `left out` (readable, but not of this data set), `bad`, `unlabelled`, `read`
        (a reading or a list, not an image) or `unused`.
      reason: why it was not taken.
      notes: corrections and doubts.
      example_id: id of the case it belongs to.
      split: split of the record it went into.
      sha256: hash of its content, if it was read.
      bytes: its length, if it was read.
    """

    file: str
    status: str
    reason: str = ""
    notes: tuple[str, ...] = ()
    example_id: str | None = None
    split: str | None = None
    sha256: str | None = None
    bytes: int | None = None


def file_entries(
    listing: Listing, outcomes: Sequence[Outcome], splits: Mapping[str, Sequence[str]]
) -> list[FileEntry]:
    """Returns an entry for each file found, once."""
    split_of = {example_id: name for name, split_ids in splits.items() for example_id in split_ids}
    entries = []
    for case, outcome in zip(listing.cases, outcomes, strict=True):
        split = split_of.get(case.example_id)
        status, reason = outcome.status, ""
        if status != "taken":
            # Reports hold no path of the machine.
            reason = f"{_below(listing, outcome.subject)}: {outcome.fault}"
        elif split is None:
            status, reason = "left out", "the split file does not name it"
        for path in case.files():
            digest = outcome.digests.get(os.fspath(path))
            entries.append(
                FileEntry(
                    file=_below(listing, path),
                    status=status,
                    reason=reason,
                    notes=outcome.notes,
                    example_id=case.example_id,
                    split=split,
                    sha256=digest.sha256 if digest else None,
                    bytes=digest.bytes if digest else None,
                )
            )
    entries += [
        FileEntry(_below(listing, path), "unlabelled", "no mask") for path in listing.unlabelled
    ]
    used = set(map(os.fspath, listing.files()))
    for path, why in listing.other:
        # Readings and lists of pairs are not images, but records are made from them, too.
        digest = digest_file(path) if os.fspath(path) in used else None
        entries.append(
            FileEntry(
                _below(listing, path), "unused" if digest is None else "read", why,
                sha256=digest.sha256 if digest else None, bytes=digest.bytes if digest else None,
            )
        )  # fmt: skip
    return entries


def write_report(folder: epath.Path, entries: Sequence[FileEntry]) -> None:
    """Writes the report as JSON and as a summary for people."""
    report = {
        "counts": dict(collections.Counter(entry.status for entry in entries)),
        "files": [dataclasses.asdict(entry) for entry in entries],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / REPORT).write_text(json.dumps(report, indent=1) + "\n")
    (folder / SUMMARY).write_text(summary(entries) + "\n", encoding="utf-8")


def read_build_report(folder: epath.Path) -> dict | None:
    """Returns what the build reported about each source file, `None` if it left no report.

    Raises:
      DataError: the file is not a build report.
    """
    path = folder / REPORT
    if not path.exists():
        return None
    try:
        content = json.loads(read_file(path))
        if all({"status", "reason"} <= entry.keys() for entry in content["files"]):
            return content
    except OSError as error:
        # What cannot be read may be whole.
        raise unreadable(path, error) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(path, "is not a build report", "remove it or build again") from error
    raise DataError(path, "names a file without its status", "remove it or build again")


def read_digests(folder: epath.Path) -> dict[str, FileDigest]:
    """Returns the digest of every file that a record was made from.

    Raises:
      DataError: there is no report, or none in the current form.
    """
    report = read_build_report(folder)
    if report is None:
        raise DataError(folder / REPORT, "is missing", "build again")
    return {
        entry["file"]: FileDigest(entry["sha256"], entry["bytes"])
        for entry in report["files"]
        if entry["sha256"]
    }


def splits_in(report: dict) -> dict[str, list[str]]:
    """Returns the ids of each split's examples, sorted, in the form of a split file."""
    splits: dict[str, set[str]] = collections.defaultdict(set)
    for entry in report["files"]:
        if entry.get("split"):
            splits[entry["split"]].add(entry["example_id"])
    return {name: sorted(ids) for name, ids in splits.items()}


def digest_of_images(report: dict) -> str | None:
    """Returns a checksum of each example's split, id and files, and of lists that were read.

    It is the same for copies of the data set's folder, and for another key of patients, which give
    records of another name or content. `None` if the report does not tell what the files held.
    """
    used = [e for e in report["files"] if e.get("split") or e["status"] == "read"]
    # The place of a file in the folder may tell what it is: the right lung, or the left.
    contents = [[e.get(k) for k in ("split", "example_id", "file", "sha256")] for e in used]
    if not used or not all(isinstance(sha256, str) for *_, sha256 in contents):
        return None
    return hashlib.sha256(json.dumps(sorted(contents, key=repr)).encode()).hexdigest()


def summary(entries: Sequence[FileEntry]) -> str:
    """Returns the counts by status, and by reason and note, and the bad files, as text."""
    by_status = collections.Counter(entry.status for entry in entries)
    reasons = collections.Counter(
        f"{entry.status}: {without_numbers(_without_file(entry.reason))}"
        for entry in entries
        if entry.reason
    )
    # An image's masks have its notes, too.
    noted = {(entry.example_id or entry.file, note) for entry in entries for note in entry.notes}
    notes = collections.Counter(without_numbers(note) for _, note in noted)
    images = {entry.example_id for entry in entries if entry.status == "taken"}
    parts = [
        f"Images in the records: {len(images)} (files below include their masks)",
        table(
            ("files", "count"),
            [*((name, str(count)) for name, count in sorted(by_status.items())),
             ("found", str(len(entries)))],
        ),
    ]  # fmt: skip
    for title, of, counts in (("reason", "files", reasons), ("note", "images", notes)):
        if counts:
            rows = [(kind, str(count)) for kind, count in counts.most_common(MAX_KINDS)]
            if len(counts) > MAX_KINDS:
                rows.append((f"{len(counts) - MAX_KINDS} kinds more, in {REPORT}", ""))
            parts.append(table((title, of), rows))
    # If one file of a case is bad, its other files may well be good.
    bad = sorted({entry.reason for entry in entries if entry.status == "bad"})
    if bad:
        rows = [(file, fault) for file, _, fault in (line.partition(": ") for line in bad)]
        if len(bad) > MAX_KINDS:
            rows = [*rows[:MAX_KINDS], (f"{len(bad) - MAX_KINDS} more", f"in {REPORT}")]
        parts.append(table(("bad file", "fault"), rows))
    return "\n\n".join(parts)


def _without_file(reason: str) -> str:
    """Returns a reason without the name of the file at fault, which may contain blanks."""
    name, separator, fault = reason.partition(": ")
    return fault if separator else name


def _below(listing: Listing, path: epath.PathLike) -> str:
    return os.path.relpath(path, listing.root)
