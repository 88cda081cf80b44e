"""The page on a set of records: tables and charts in one self-contained file."""

import collections
import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfds_builder.contact_sheet import COLUMNS, ContactSheet
from tfds_builder.data_report_charts import ages, distributions, mean_masks
from tfds_builder.data_report_figures import Figures, GroupFigures
from tfds_builder.duplicates import ALIKE_CORRELATION, Pair
from tfds_builder.html_parts import (
    STYLE,
    count,
    jpeg_address,
    noun,
    panel,
    side_by_side,
    some,
    table,
)
from tfds_builder.svg_charts import bar_chart

MAX_PAIRS = 100
MAX_REASONS = 40

# Where cards lead to.
TWICE, WITHOUT_LUNG = "twice", "without-lung"


def page(
    name: str,
    figures: Figures,
    pairs: Sequence[Pair],
    build_report: Mapping[str, Any] | None,
    contact_sheet: ContactSheet,
) -> str:
    """Returns the page as HTML.

    Args:
      name: name of the records.
      figures: statistics of all records.
      pairs: pairs of duplicate images.
      build_report: what the build says about each source file, if it says anything.
      contact_sheet: some of the images.
    """
    parts = [
        f"<h1>{html.escape(name)}</h1>",
        '<p class="lead">What is in these records, counted from the records themselves.</p>',
        _cards(figures, pairs),
        _counts(figures),
        _without_lung(figures),
        distributions(figures),
        mean_masks(figures),
        _people(figures),
        _build(build_report),
        _duplicates(figures, pairs),
        _choice(contact_sheet),
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(name)}</title><style>{STYLE}</style>"
        f"<main>{''.join(parts)}</main></html>\n"
    )


def _cards(figures: Figures, pairs: Sequence[Pair]) -> str:
    patients = set[str]().union(*figures.patients.values())
    plain = [
        (figures.counts.total(), "record"),
        (len(patients), "patient"),
        (len(figures.by_source), "source"),
    ]
    cards = [_card(value, noun(value, name)) for value, name in plain]
    leaks, empty = sum(pair.across_splits for pair in pairs), len(figures.without_lung)
    alike = f"{noun(leaks, 'pair')} alike across splits"
    if leaks and figures.generated:
        alike += ", by chance: the images are generated"
    cards += [
        _card(leaks, alike, TWICE, warn=not figures.generated),
        _card(empty, f"{noun(empty, 'mask')} without lung", WITHOUT_LUNG, warn=True),
    ]
    return f'<div class="cards">{"".join(cards)}</div>'


def _card(value: int, label: str, target: str = "", *, warn: bool = False) -> str:
    """Returns a number and what it counts; if it is not 0, a link to it, and a warning if asked."""
    tag, address = ("a", f' href="#{target}"') if value and target else ("div", "")
    kind = "card warn" if value and warn else "card"
    return f'<{tag} class="{kind}"{address}><b>{value}</b><span>{label}</span></{tag}>'


def _counts(figures: Figures) -> str:
    splits = list(figures.by_split)
    rows = [
        [source, *(figures.counts[source, split] for split in splits), group.number]
        for source, group in sorted(figures.by_source.items())
    ]
    numbers = [figures.by_split[split].number for split in splits]
    rows.append(["all", *numbers, sum(numbers)])
    patients = set[str]().union(*figures.patients.values())
    rows.append(["patients", *(len(figures.patients[split]) for split in splits), len(patients)])
    counts = panel(table("Records", ["source", *splits, "all"], rows, sums=2))
    both = {**dict(sorted(figures.by_source.items())), **figures.by_split}
    sizes = [
        [
            name,
            _range(group.heights),
            _range(group.widths),
            f"{group.lung_share.mean:.1%}",
            f"{group.intensity.mean:.3f}",
        ]
        for name, group in both.items()
    ]
    header = ["source or split", "height px", "width px", "lung area", "mean intensity"]
    sizes_panel = panel(table("Size, lung and intensity", header, sizes))
    return f"<h2>Counts</h2>{side_by_side(counts)}{side_by_side(sizes_panel)}"


def _without_lung(figures: Figures) -> str:
    found = figures.without_lung
    if not found:
        return ""
    subject = (
        "The mask of 1 image has" if len(found) == 1 else f"The masks of {len(found)} images have"
    )
    return (
        f'<h2 id="{WITHOUT_LUNG}">Masks without lung</h2><p>{subject} no lung: {some(found)}. '
        "If lung can be seen there, correct the mask and build again.</p>"
    )


def _people(figures: Figures) -> str:
    counters: list[tuple[str, Callable[[GroupFigures], collections.Counter[str]]]] = [
        ("Findings", lambda group: group.finding),
        ("Sex", lambda group: group.sex),
    ]
    panels = [
        panel(_groups_table(title, figures, counter_of))
        for title, counter_of in counters
        if any(counter_of(group).keys() - {"unknown"} for group in figures.by_split.values())
    ]
    parts = (side_by_side(*panels) if panels else "") + ages(figures)
    nothing = '<p class="none">findings, sex and age are not known</p>'
    return f"<h2>Patients</h2>{parts or nothing}"


def _groups_table(
    title: str, figures: Figures, counter_of: Callable[[GroupFigures], collections.Counter[str]]
) -> str:
    groups = {**dict(sorted(figures.by_source.items())), **figures.by_split}
    values = sorted(set().union(*(counter_of(group) for group in groups.values())))
    rows = [
        [name, *(counter_of(group)[value] for value in values)] for name, group in groups.items()
    ]
    return table(title, ["source or split", *values], rows)


def _build(build_report: Mapping[str, Any] | None) -> str:
    if build_report is None:
        return ""
    files = build_report["files"]
    status = collections.Counter(entry["status"] for entry in files)
    reasons = collections.Counter(
        (entry["status"], entry["reason"]) for entry in files if entry["status"] != "taken"
    )
    rows = [[name, reason, n] for (name, reason), n in reasons.most_common(MAX_REASONS)]
    found = table("Why not taken", ["status", "reason", "files"], rows, text_columns=(1,))
    more = len(reasons) - MAX_REASONS
    verb = "is" if more == 1 else "are"
    rest = f"<p>{count(more, 'rarer reason')} {verb} in build_report.json.</p>" if more > 0 else ""
    title = "What became of them"
    why = found + rest if rows else '<p class="none">every file was taken</p>'
    return (
        "<h2>Source files</h2>"
        + side_by_side(panel(bar_chart(title, dict(status.most_common())), title))
        + side_by_side(panel(why))
    )


def _duplicates(figures: Figures, pairs: Sequence[Pair]) -> str:
    say = (
        "Images with the same pixels, and images of different patients or splits whose lungs "
        f"look alike (correlation from {ALIKE_CORRELATION:g}). "
    )
    if figures.generated:
        say += "These images are generated: those that look alike do so by chance."
    else:
        say += "The same patient may hide behind two numbers; look at them."
    rows = [
        [
            pair.first.example_id,
            pair.second.example_id,
            pair.kind,
            f"{pair.correlation:.3f}",
            " and ".join(dict.fromkeys((pair.first.split, pair.second.split))),
        ]
        for pair in pairs[:MAX_PAIRS]
    ]
    header = ["one", "other", "kind", "correlation", "split"]
    found = table("Pairs", header, rows, text_columns=(1, 2))
    rest = f"<p>All {len(pairs)} are in duplicates.json.</p>" if len(pairs) > MAX_PAIRS else ""
    content = found + rest if pairs else '<p class="none">none found</p>'
    return f'<h2 id="{TWICE}">Images that come twice</h2><p>{say}</p>{side_by_side(panel(content))}'


def _choice(sheet: ContactSheet) -> str:
    """Returns the sheet and, since its letters are small and few, a table of what it shows."""
    rows = [
        [
            1 + place // COLUMNS,
            1 + place % COLUMNS,
            image.example_id,
            image.split,
            image.source,
            "lung" if image.has_lung else "no lung",
        ]
        for place, image in sheet.shown().items()
    ]
    alt = (
        f"{count(len(rows), 'image')} in rows of {COLUMNS}, with the outlines of masks: "
        f"{', '.join(sheet.key().values())}. Opens contact_sheet.png; a table names the images."
    )
    header = ["row", "column", "image", "split", "source", "mask"]
    names = table("Images on the sheet", header, rows, text_columns=(2, 3, 4, 5))
    return (
        '<h2>A random choice</h2><a href="contact_sheet.png"><img class="sheet" '
        f'src="{jpeg_address(sheet.image())}" alt="{html.escape(alt)}"></a>'
        f"<details><summary>Names of these images</summary>{side_by_side(panel(names))}</details>"
    )


def _range(sizes: collections.Counter[int]) -> str:
    if not sizes:
        return ""
    low, high = min(sizes), max(sizes)
    return f"{low}" if low == high else f"{low} to {high}"
