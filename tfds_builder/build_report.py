"""What a build did with every file it found."""

import collections
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence

from etils import epath

from lungseg_jax.terminal import table
from tfds_builder.digest import FileDigest
from tfds_builder.outcome import Outcome
from tfds_builder.sources import Listing

REPORT = "build_report.json"
SUMMARY = "build_report.txt"


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """One file.

    Attributes:
      file: path below the data set's folder.
      status: `taken`, `left out` (readable, but not of this data set), `bad`, `unlabelled` or
        `unused`.
      reason: why it was not taken.
      notes: corrections and doubts.
      example_id: of the case it belongs to.
      split: of the record it went into.
      sha256: of its content, where it was read.
      bytes: its length, where it was read.
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
    split_of = {example_id: name for name, own in splits.items() for example_id in own}
    entries = []
    for case, outcome in zip(listing.cases, outcomes, strict=True):
        split = split_of.get(case.example_id)
        status, reason = outcome.status, f"{outcome.subject}: {outcome.fault}"
        if status == "taken":
            reason = ""
            if split is None:
                status, reason = "left out", "the split file does not name it"
        for path in (case.image, *(mask.path for mask in case.masks)):
            digest = outcome.digests.get(os.fspath(path))
            entries.append(
                FileEntry(
                    _below(listing, path), status, reason, outcome.notes, case.example_id, split,
                    digest.sha256 if digest else None, digest.bytes if digest else None,
                )
            )  # fmt: skip
    entries += [
        FileEntry(_below(listing, path), "unlabelled", "no mask") for path in listing.unlabelled
    ]
    entries += [FileEntry(_below(listing, path), "unused", why) for path, why in listing.other]
    return _once(entries)


def write_report(folder: epath.Path, entries: Sequence[FileEntry]) -> None:
    """Writes the report as JSON and as a summary for people."""
    report = {
        "counts": dict(collections.Counter(entry.status for entry in entries)),
        "files": [dataclasses.asdict(entry) for entry in entries],
    }
    (folder / REPORT).write_text(json.dumps(report, indent=1) + "\n")
    (folder / SUMMARY).write_text(summary(entries) + "\n")


def read_digests(folder: epath.Path) -> dict[str, FileDigest]:
    """Returns the digest of every file that a record was made of."""
    report = json.loads((folder / REPORT).read_text())
    return {
        entry["file"]: FileDigest(entry["sha256"], entry["bytes"])
        for entry in report["files"]
        if entry["sha256"]
    }


def summary(entries: Sequence[FileEntry]) -> str:
    """Returns the counts by status, and by reason and note, as text."""
    by_status = collections.Counter(entry.status for entry in entries)
    # A reason names its file first; without it, equal reasons are counted together.
    reasons = collections.Counter(
        (entry.status, entry.reason.rpartition(": ")[2]) for entry in entries if entry.reason
    )
    notes = collections.Counter(note for entry in entries for note in entry.notes)
    parts = [
        table(
            ("files", "count"),
            [*((name, str(count)) for name, count in sorted(by_status.items())),
             ("found", str(len(entries)))],
        )
    ]  # fmt: skip
    if reasons:
        rows = [(f"{status}: {reason}", str(n)) for (status, reason), n in reasons.most_common()]
        parts.append(table(("not taken because", "count"), rows))
    if notes:
        rows = [(note, str(count)) for note, count in notes.most_common()]
        parts.append(table(("files with the note", "count"), rows))
    return "\n\n".join(parts)


def _below(listing: Listing, path: epath.Path) -> str:
    return os.path.relpath(path, listing.root)


def _once(entries: Sequence[FileEntry]) -> list[FileEntry]:
    """A mask that two pictures share is one file; it was taken if one of them was."""
    by_file: dict[str, FileEntry] = {}
    for entry in entries:
        known = by_file.setdefault(entry.file, entry)
        if known.status != "taken" and entry.status == "taken":
            by_file[entry.file] = entry
    return list(by_file.values())
