"""Shows what is in finished records: `contact_sheet.png`, `index.html` and `duplicates.json`.

Usage: python -m tfds_builder.data_report FOLDER

FOLDER holds dataset_info.json and the shards; the three files are written to FOLDER/data_report.
"""

import collections
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

from etils import epath

from lungseg_jax import terminal
from lungseg_jax.command import run_command
from tfds_builder.build_report import read_build_report
from tfds_builder.contact_sheet import ContactSheet
from tfds_builder.data_report_figures import Figures, Look
from tfds_builder.data_report_page import page
from tfds_builder.duplicates import ALIKE_CORRELATION, Fingerprint, Fingerprints, Pair
from tfds_builder.records_folder import image_size, open_folder, read_records, the_folder

PAGE = "data_report/index.html"
DUPLICATES = "data_report/duplicates.json"


def write_data_report(folder: epath.PathLike) -> None:
    """Writes the report on a folder of records into its `data_report/`, and says where it is.

    Every record is read once and let go. What stays is sums, the sheet, and 2 kB per image to
    compare it with the others.

    Args:
      folder: holds `dataset_info.json` and the shards, and `build_report.json` if the build left
        one.

    Raises:
      DataError: there is no such folder, or a record or the build report is damaged.
    """
    folder = epath.Path(folder).expanduser()
    builder = open_folder(folder)
    build_report = read_build_report(folder)
    total = builder.info.splits.total_num_examples
    figures = Figures(builder.info.splits, image_size(builder))
    sheet, fingerprints = ContactSheet(total), Fingerprints()
    with terminal.progress("report", total, "record") as bar:
        for position, (split, record, seen) in enumerate(read_records(builder, _look)):
            figures.add(split, record, seen[0])
            sheet.add(position, split, record)
            fingerprints.add(split, record, seen[1])
            bar.update()
    pairs = fingerprints.pairs()
    output = (folder / PAGE).parent
    output.mkdir(exist_ok=True)
    # Fast rather than small, because it is the largest image of all.
    with (output / "contact_sheet.png").open("wb") as file:
        sheet.image().save(file, "PNG", compress_level=1)
    (folder / DUPLICATES).write_text(_duplicates_json(total, pairs, generated=figures.generated))
    _say_duplicates(folder)
    name = builder.info.config_name or builder.info.name
    # The page comes last: if it exists, so does the rest.
    content = page(name, figures, pairs, build_report, sheet)
    (folder / PAGE).write_text(content, encoding="utf-8")
    terminal.say(f"Report on the records: {folder / PAGE} and {output / 'contact_sheet.png'}")


def ensure_data_report(folder: epath.PathLike) -> None:
    """Writes the report on a folder of records if it has none and can be written to.

    Duplicates across splits are reported either way, at the start of every run.

    Raises:
      DataError: there is no such folder, or a record or the build report is damaged.
    """
    if (epath.Path(folder) / PAGE).exists():
        _say_duplicates(epath.Path(folder))
        return
    try:
        (epath.Path(folder) / PAGE).parent.mkdir(exist_ok=True)
    # Finished records may lie where writing is not allowed; said before all of them are read.
    except OSError as error:
        terminal.say(f"No report on the records: {error}")
        return
    write_data_report(folder)


def _look(record: dict[str, Any]) -> tuple[Look, Fingerprint]:
    return Look.at(record), Fingerprint.of(record)


def _say_duplicates(folder: epath.Path) -> None:
    """Warns if images of different splits seem to show the same chest."""
    try:
        found = json.loads((folder / DUPLICATES).read_text())
        pairs = [pair for pair in found["pairs"] if pair["across_splits"]]
        kinds = collections.Counter(pair["kind"] for pair in pairs)
        alike = [pair["correlation"] for pair in pairs if pair["kind"] == "alike"]
        generated = found["generated"]
    except (OSError, ValueError, TypeError, KeyError):
        # It is for people: no run depends on it.
        return
    # Phantoms show no patient: however alike two are, neither gives the other away.
    if pairs and not generated:
        reach = ""
        if alike:
            reach = f" (correlation up to {max(alike):.3f}, of two patients rarely above .75)"
        terminal.say(
            f"Pairs of images in different splits: {kinds['same pixels']} with the same pixels, "
            f"{len(alike)} that look alike{reach}. If they show one patient, metrics are too high: "
            f"see {folder / PAGE}, and name the patient in pairs.csv"
        )


def _duplicates_json(total: int, pairs: Sequence[Pair], *, generated: bool) -> str:
    content = {
        "images": total,
        "generated": generated,
        "alike_from_correlation": ALIKE_CORRELATION,
        "pairs": [
            dataclasses.asdict(pair) | {"across_splits": pair.across_splits} for pair in pairs
        ],
    }
    return json.dumps(content, indent=1) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Writes the report; returns the exit code."""
    again = "run the same command to start over"
    return run_command(arguments, str(__doc__), lambda: _run(arguments[1:]), again)


def _run(folders: Sequence[str]) -> None:
    write_data_report(the_folder(folders))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
