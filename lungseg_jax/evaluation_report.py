"""What an evaluation writes: tables, overlays, `metrics.json`, and a table to read."""

import collections
import csv
import dataclasses
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from lungseg_jax import terminal
from lungseg_jax.imaging import png
from lungseg_jax.imaging.overlay import with_words
from lungseg_jax.metrics import (
    SIDE_FIGURES,
    ImageMetrics,
    area_agreement,
    decimals,
    dice_of_classes,
    spread,
    summarize,
)
from lungseg_jax.paths import read_file, write_whole

# Columns that a whole table may lack.
_SOMETIMES = (*SIDE_FIGURES, "cross_entropy", "sex", "age_years")

# First year of each age group.
_AGES = {0: "0 to 17", 18: "18 to 39", 40: "40 to 64", 65: "65 and over"}

# Overlays of the worst images: one bad image says little of why a network fails.
NUM_WORST = 12

# What images are grouped by in a summary.
_GROUPS: dict[str, Callable[[ImageMetrics], str]] = {
    "source": lambda row: row.source,
    "finding": lambda row: row.finding,
    "sex": lambda row: row.sex or "unknown",
    "age": lambda row: _age_group(row.age_years),
}

Summary = dict[str, dict[str, Any]]

# Columns of the closing table: field and heading.
_COLUMNS = {
    "dice": "Dice",
    "interval": "95 % interval",
    "iou": "IoU",
    "hd95_px": "HD95 px",
    "assd_px": "ASSD px",
    "surface_dice": "surface Dice",
    "hd95_percent": "HD95 % of side",
    "assd_percent": "ASSD % of side",
    "hd95_mm": "HD95 mm",
    "dice_right": "right Dice",
    "dice_left": "left Dice",
    "num_examples": "images",
}

# Those of them that are for files of one size, and for files of several.
_OF_ONE_SIZE = ("hd95_px", "assd_px", "surface_dice")
_OF_SEVERAL = ("hd95_percent", "assd_percent")

# Columns for what rarely happens: shown only where it did.
_FAILURES = {"num_empty_predictions": "missed", "num_false_lungs": "false lungs"}


def write_split(workdir: epath.Path, split: str, rows: Sequence[ImageMetrics]) -> dict:
    """Writes `eval/<split>.csv` by id; returns its summary, with those of groups of images.

    Columns of `_SOMETIMES` are written only if some row has them, the others always; what rows
    have beyond `ImageMetrics` comes last.
    """
    text = io.StringIO(newline="")
    fields = [field.name for field in dataclasses.fields(rows[0] if rows else ImageMetrics)]
    for name in _SOMETIMES:
        if all(value == "" or _is_nan(value) for value in (getattr(row, name) for row in rows)):
            fields.remove(name)
    writer = csv.DictWriter(text, fields, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in sorted(rows, key=lambda row: row.id):
        cells = dataclasses.asdict(row).items()
        writer.writerow({key: "" if _is_nan(value) else value for key, value in cells})
    _write(workdir / "eval" / f"{split}.csv", text.getvalue().encode())
    summary = summary_of(rows)
    for group, name_of in _GROUPS.items():
        members = collections.defaultdict(list)
        for row in rows:
            members[name_of(row)].append(row)
        if len(members) > 1:
            summary[f"by_{group}"] = {name: summary_of(members[name]) for name in sorted(members)}
    return summary


def _age_group(years: float) -> str:
    if math.isnan(years):
        return "unknown"
    return _AGES[max(first for first in _AGES if first <= years)]


def summary_of(rows: Sequence[ImageMetrics]) -> dict:
    """Returns the means of rows, counts, the spread of the metrics, and the agreement of areas."""
    agreement = {"area_percent": area_agreement(rows)}
    return summarize(rows) | {"spread": spread(rows)} | agreement


def write_summary(workdir: epath.Path, summary: Summary) -> None:
    """Writes `metrics.json`; the same run gives the same bytes."""
    text = json.dumps(summary, indent=2, sort_keys=True, allow_nan=False)
    _write(workdir / "metrics.json", (text + "\n").encode())


def remove_summary(workdir: epath.Path) -> None:
    """Removes `metrics.json`, if there is one."""
    if jax.process_index() == 0:
        (workdir / "metrics.json").unlink(missing_ok=True)


def read_summary(workdir: epath.Path) -> Summary:
    """Returns what `write_summary` wrote.

    Raises:
      FileNotFoundError: the run has not finished.
      ValueError: the file is not JSON.
    """
    return json.loads(read_file(workdir / "metrics.json"))


def best_median_worst(rows: Sequence[ImageMetrics]) -> dict[str, int]:
    """Returns the positions of the images with the highest, middle and lowest Dice of classes."""
    ranked = _best_first(rows)
    if not ranked:
        return {}
    return {"best": ranked[0], "median": ranked[len(ranked) // 2], "worst": ranked[-1]}


def images_to_show(rows: Sequence[ImageMetrics]) -> dict[str, int]:
    """Returns the positions of the images that are drawn, by the names of their overlays.

    These are `best`, `median` and `worst`, and of the other images below the median the worst:
    `worst_02` up to `worst_12`.
    """
    ranked = _best_first(rows)
    next_worst = ranked[len(ranked) // 2 + 1 : -1][::-1][: NUM_WORST - 1]
    return best_median_worst(rows) | {
        f"worst_{place:02}": position for place, position in enumerate(next_worst, 2)
    }


def ids_of(rows: Sequence[ImageMetrics], ranked: Mapping[str, int]) -> dict[str, str]:
    """Returns the ids of the images that are drawn, by the names of their overlays."""
    return {rank: rows[position].id for rank, position in ranked.items()}


def _best_first(rows: Sequence[ImageMetrics]) -> list[int]:
    """Returns the positions of the images that have a Dice of classes, the best first."""
    dice = [dice_of_classes(vars(row)) for row in rows]
    known = (position for position, value in enumerate(dice) if not math.isnan(value))
    return sorted(known, key=lambda position: -dice[position])


def write_overlays(
    workdir: epath.Path,
    rows: Sequence[ImageMetrics],
    ranked: Mapping[str, int],
    overlays: Mapping[int, np.ndarray],
) -> None:
    """Writes `overlays/<rank>.png` for the images this process has, replacing older ones."""
    for rank, position in ranked.items():
        if position not in overlays:
            continue
        row = rows[position]
        path = workdir / "overlays" / f"{rank}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        has_sides = any(not math.isnan(getattr(row, name)) for name in SIDE_FIGURES)
        kind = "mean Dice of right and left" if has_sides else "Dice"
        dice = f"{kind} {dice_of_classes(vars(row)):.4f}"
        shown = with_words(overlays[position], dice, sides=has_sides, reference=True)
        write_whole(path, png.encode_png(shown))
        if rank in ("best", "median", "worst"):
            terminal.say(f"{rank}: {row.id}, {dice}, {path}")


def closing_table(summary: Summary) -> str:
    """Returns the metrics of each split, and of each source in it, as text."""
    lines = {}
    for split, figures in summary.items():
        lines[split] = _for_people(figures)
        for source, source_figures in figures.get("by_source", {}).items():
            lines[f"{split} {source}"] = _for_people(source_figures)
    # A mean over files of several sizes is dominated by the largest if it is in pixels.
    sides = {figures["longer_side_px"] for figures in summary.values() if figures["num_examples"]}
    several = len(sides) > 1 or None in sides
    hidden = _OF_ONE_SIZE if several else _OF_SEVERAL
    columns = {
        key: heading
        for key, heading in _COLUMNS.items()
        if key not in hidden and any(key in figures for figures in lines.values())
    }
    # Beside those of each lung: the best checkpoint is that of the mean of these.
    if "dice_right" in columns:
        columns["dice"] = "both Dice"
    columns |= {
        key: heading
        for key, heading in _FAILURES.items()
        if any(figures[key] > 0 for figures in lines.values())
    }
    rows = [
        [name, *(_cell(key, figures.get(key)) for key in columns)]
        for name, figures in lines.items()
    ]
    return terminal.table(["split", *columns.values()], rows)


def areas_in_words(figures: Mapping) -> str:
    """Says how much areas differ from the references', for people; empty if that is not known."""
    found = figures["area_percent"]
    if found is None:
        return ""
    low, high = found["limits"]
    return (
        f"Lung areas of {found['num_examples']} images differ from the references' by "
        f"{found['bias']:+.1f} % on average; for 95 % of such images, {low:+.1f} to {high:+.1f} % "
        "are expected"
    )


def _for_people(figures: Mapping) -> dict:
    """Returns the figures, with the interval of the mean Dice, and of how many images it is."""
    shown = dict(figures)
    if interval := figures.get("spread", {}).get("dice", {}).get("interval"):
        shown["interval"] = " to ".join(f"{end:.4f}" for end in interval)
    # Where neither prediction nor reference has lung, there is no Dice.
    if empty := figures["num_without_lung"] - figures["num_false_lungs"]:
        shown["num_examples"] = f"{figures['num_examples'] - empty} of {figures['num_examples']}"
    return shown


def _cell(key: str, value: float | int | str | None) -> str:
    if value is None:
        return "-"
    return f"{value:.{decimals(key)}f}" if isinstance(value, float) else str(value)


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _write(path: epath.Path, content: bytes) -> None:
    """Writes in one process only, because all of them have the same content."""
    if jax.process_index() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
