"""What became of a case: its record, or why it has none."""

import dataclasses
from typing import Any, Literal

from lungseg_jax.errors import DataError
from lungseg_jax.file_digest import FileDigest
from tfds_builder.sources import Case

Status = Literal["taken", "left out", "bad"]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a case, without its images.

    Attributes:
      example_id: the case's id.
      status: `taken`; `left out` for readable files that do not belong in the data set; `bad` for
        files at fault.
      subject: path of the file at fault, if the case was not taken.
      fault: why it was not taken.
      remedy: what would make it right.
      notes: corrections and doubts about a case that was taken.
      has_lung: whether the mask of a case that was taken marks any lung.
      patient_id: the id that must not be in two splits.
      patient_is_hashed: whether that id is a keyed hash.
      source: where the image was taken.
      finding: `normal`, `abnormal` or `unknown`.
      digests: digests of the case's files, by path, the image's first.
    """

    example_id: str
    status: Status
    subject: str
    fault: str
    remedy: str
    notes: tuple[str, ...]
    has_lung: bool
    patient_id: str
    patient_is_hashed: bool
    source: str
    finding: str
    digests: dict[str, FileDigest]

    @property
    def image_digest(self) -> str | None:
        """SHA-256 of the image's file, if it was read."""
        return next((digest.sha256 for digest in self.digests.values()), None)

    @classmethod
    def not_taken(
        cls,
        case: Case,
        status: Literal["left out", "bad"],
        error: DataError,
        digests: dict[str, FileDigest] | None = None,
    ) -> "Outcome":
        """Returns the outcome of a case that has no record."""
        return cls(
            example_id=case.example_id,
            status=status,
            subject=str(error.subject),
            fault=error.fault,
            remedy=error.remedy,
            notes=(),
            has_lung=False,
            patient_id=case.example_id,
            patient_is_hashed=False,
            source=case.source,
            finding=case.clinical.finding,
            digests=digests or {},
        )

    def to_json(self) -> dict[str, Any]:
        """Returns a form that JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, form: dict[str, Any]) -> "Outcome":
        """Inverts `to_json`."""
        digests = {path: FileDigest(**digest) for path, digest in form["digests"].items()}
        return cls(**form | {"notes": tuple(form["notes"]), "digests": digests})
