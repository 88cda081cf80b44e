"""The page on a set of records: tables and charts in one self-contained file."""

import base64
import collections
import html
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image

from tfds_builder.data_report_figures import SPACING_EDGES, Figures, GroupFigures, Histogram
from tfds_builder.duplicates import ALIKE_CORRELATION, Pair
from tfds_builder.svg_charts import PALETTE, bar_chart, histogram_chart

# More lines cannot be told apart, so only the largest groups are drawn; the tables have all.
MAX_LINES = len(PALETTE)
MAX_PAIRS = 100
MAX_REASONS = 40

# Width of a mean mask on the page, in pixels.
MEAN_MASK_SIDE = 180

STYLE = """
:root { color-scheme: light; --ink: #20242c; --faint: #68707e; --line: #e3e6eb; --back: #f6f7f9 }
* { box-sizing: border-box }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
main { max-width: 1060px; margin: 0 auto; padding: 32px 20px 64px }
h1 { font-size: 26px; margin: 0 0 2px; overflow-wrap: anywhere }
h2 { font-size: 18px; margin: 36px 0 10px }
h3 { font-size: 14px; margin: 0 0 8px }
p { margin: 0 0 10px; max-width: 75ch } .lead, .none, figcaption { color: var(--faint) }
.cards, .pair { display: flex; flex-wrap: wrap; gap: 12px } .cards { margin: 18px 0 }
.pair { margin-bottom: 12px } .card { flex: 1 1 140px } .panel { flex: 1 1 340px; min-width: 0 }
.card, .panel { background: #fff; border: 1px solid var(--line); border-radius: 8px }
.card { padding: 12px 16px } .card b { display: block; font-size: 24px; line-height: 1.2;
  font-variant-numeric: tabular-nums } .card span { color: var(--faint); font-size: 13px }
.card.warn b { color: #b3261e }
.panel { padding: 14px 16px; overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: 5px 10px; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap }
th { color: var(--faint); font-weight: 500; font-size: 13px }
th:first-child, td:first-child, td.text, th.text { text-align: left }
td.text { white-space: normal }
tr:last-child td { border-bottom: 0 } tr.sum td { font-weight: 600 }
svg { display: block; width: 100%; height: auto }
.key { display: flex; flex-wrap: wrap; gap: 4px 14px; font-size: 13px; margin-top: 4px }
.key i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 5px }
.masks { display: flex; flex-wrap: wrap; gap: 16px } figure { margin: 0 }
figure img { display: block; border-radius: 6px } figcaption { font-size: 13px; margin-top: 4px }
img.sheet { width: 100%; border: 1px solid var(--line); border-radius: 8px }
"""


def page(
    name: str,
    figures: Figures,
    pairs: Sequence[Pair],
    build_report: Mapping[str, Any] | None,
    contact_sheet: Image.Image,
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
        _distributions(figures),
        _mean_masks(figures),
        _people(figures),
        _build(build_report),
        _duplicates(pairs),
        f'<h2>A random choice</h2><img class="sheet" src="{_jpeg(contact_sheet)}" '
        'alt="images with their masks">',
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(name)}</title><style>{STYLE}</style>"
        f"<main>{''.join(parts)}</main></html>\n"
    )


def _cards(figures: Figures, pairs: Sequence[Pair]) -> str:
    leaks = sum(pair.across_splits for pair in pairs)
    empty = sum(group.without_lung for group in figures.by_split.values())
    patients = set[str]().union(*figures.patients.values())
    values = [
        (figures.counts.total(), "records", False),
        (len(patients), "patients", False),
        (len(figures.by_source), "sources", False),
        (leaks, "pairs alike across splits", leaks > 0),
        (empty, "masks without lung", empty > 0),
    ]
    cards = [
        f'<div class="card{" warn" if warn else ""}"><b>{value}</b><span>{label}</span></div>'
        for value, label, warn in values
    ]
    return f'<div class="cards">{"".join(cards)}</div>'


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
    counts = _panel("Records", _table(["source", *splits, "all"], rows, sums=2))
    both = {**dict(sorted(figures.by_source.items())), **figures.by_split}
    sizes = [
        [
            name,
            _range(group.height),
            _range(group.width),
            f"{group.lung_share.mean:.1%}",
            f"{group.intensity.mean:.3f}",
        ]
        for name, group in both.items()
    ]
    header = ["source or split", "height px", "width px", "lung share", "mean intensity"]
    sizes_panel = _panel("Size, lung and intensity", _table(header, sizes))
    return f"<h2>Counts</h2>{_pair(counts)}{_pair(sizes_panel)}"


def _distributions(figures: Figures) -> str:
    """Charts of each quantity, by source on the left and by split on the right."""
    quantities: list[tuple[str, str, Callable[[GroupFigures], Histogram]]] = [
        ("Intensity", "intensity, 0 black to 1 white, padding left out", lambda x: x.intensity),
        ("Lung area", "share of the exposed field that is lung", lambda x: x.lung_share),
        ("Height", "rows of the original image", lambda x: x.height),
        ("Width", "columns of the original image", lambda x: x.width),
    ]
    parts = ["<h2>Distributions</h2>"]
    for title, label, histogram_of in quantities:
        parts.append(
            _pair(
                _chart(f"{title} by source", label, _largest(figures.by_source), histogram_of),
                _chart(f"{title} by split", label, figures.by_split, histogram_of),
            )
        )
    parts.append(_spacing(figures))
    return "".join(parts)


def _spacing(figures: Figures) -> str:
    rows, series = [], {}
    for name, values in sorted(figures.spacing.items()):
        cells = ["", "", ""]
        # If it is not known, 0 is written.
        if name != "none":
            cells = [f"{mm:.3f}" for mm in (values.lowest, values.mean, values.highest)]
            series[name] = values.counts
        rows.append([name, values.number, *cells])
    header = ["measured on", "records", "lowest mm", "mean mm", "highest mm"]
    chart = histogram_chart(SPACING_EDGES, series, "row spacing in mm")
    charts = [_panel("Spacing by what it was measured on", chart)] if series else []
    return _pair(_panel("Spacing of the rows", _table(header, rows)), *charts)


def _mean_masks(figures: Figures) -> str:
    images = [
        f'<figure><img src="{_mean_mask(group)}" width="{MEAN_MASK_SIDE}" '
        f'height="{MEAN_MASK_SIDE}" alt="mean mask of {html.escape(name)}">'
        f"<figcaption>{html.escape(name)}, {group.number} records</figcaption></figure>"
        for name, group in {**_largest(figures.by_source), **figures.by_split}.items()
    ]
    return (
        "<h2>Where the lungs are</h2><p>The share of records in which a pixel of the model's "
        f'square is lung: black none, white all.</p><div class="masks">{"".join(images)}</div>'
    )


def _people(figures: Figures) -> str:
    panels = [
        _panel("Findings", _groups_table(figures, lambda group: group.finding)),
        _panel("Sex", _groups_table(figures, lambda group: group.sex)),
    ]
    with_age = any(group.age.number for group in figures.by_split.values())
    charts = [
        _chart(f"Age by {word}", "age in years", groups, lambda group: group.age)
        for word, groups in (
            ("source", _largest(figures.by_source)),
            ("split", figures.by_split),
        )
    ]
    known = any(group.sex for group in figures.by_split.values())
    shown = panels if known else panels[:1]
    return f"<h2>Patients</h2>{_pair(*shown)}{_pair(*charts) if with_age else ''}"


def _groups_table(
    figures: Figures, counter_of: Callable[[GroupFigures], collections.Counter]
) -> str:
    groups = {**dict(sorted(figures.by_source.items())), **figures.by_split}
    values = sorted(set().union(*(counter_of(group) for group in groups.values())))
    rows = [
        [name, *(counter_of(group)[value] for value in values)] for name, group in groups.items()
    ]
    return _table(["source or split", *values], rows)


def _build(build_report: Mapping[str, Any] | None) -> str:
    if build_report is None:
        return ""
    files = build_report["files"]
    status = collections.Counter(entry["status"] for entry in files)
    reasons = collections.Counter(
        (entry["status"], entry["reason"]) for entry in files if entry["status"] != "taken"
    )
    rows = [[name, reason, n] for (name, reason), n in reasons.most_common(MAX_REASONS)]
    table = _table(["status", "reason", "files"], rows, text_columns=(1,))
    more = len(reasons) - MAX_REASONS
    rest = f"<p>{more} rarer reasons are in build_report.json.</p>" if more > 0 else ""
    empty = '<p class="none">every file was taken</p>'
    return (
        "<h2>Source files</h2>"
        + _pair(_panel("What became of them", bar_chart(dict(status.most_common()), "files")))
        + _pair(_panel("Why not taken", table + rest if rows else empty))
    )


def _duplicates(pairs: Sequence[Pair]) -> str:
    say = (
        "Images with the same pixels, and images of different patients or splits whose lungs "
        f"look alike (correlation from {ALIKE_CORRELATION:g}). The same patient may hide behind "
        "two numbers; look at them."
    )
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
    table = _table(["one", "other", "kind", "correlation", "split"], rows, text_columns=(1,))
    rest = f"<p>All {len(pairs)} are in duplicates.json.</p>" if len(pairs) > MAX_PAIRS else ""
    found = table + rest if pairs else '<p class="none">none found</p>'
    return f"<h2>Images that come twice</h2><p>{say}</p>{_pair(_panel('Pairs', found))}"


def _chart(
    title: str,
    label: str,
    groups: Mapping[str, GroupFigures],
    histogram_of: Callable[[GroupFigures], Histogram],
) -> str:
    histograms = {name: histogram_of(group) for name, group in groups.items()}
    edges = next(iter(histograms.values())).edges
    series = {name: histogram.counts for name, histogram in histograms.items()}
    return _panel(title, histogram_chart(edges, series, label))


def _largest(groups: Mapping[str, GroupFigures]) -> dict[str, GroupFigures]:
    ranked = sorted(groups, key=lambda name: -groups[name].number)[:MAX_LINES]
    return {name: groups[name] for name in sorted(ranked)}


def _mean_mask(group: GroupFigures) -> str:
    share = group.mask_sum / max(1, group.number)
    side = (MEAN_MASK_SIDE, MEAN_MASK_SIDE)
    small = cv2.resize(share.astype(np.float32), side, interpolation=cv2.INTER_AREA)
    ok, encoded = cv2.imencode(".png", np.rint(small * 255).astype(np.uint8))
    assert ok, "a grey array always encodes"
    return f"data:image/png;base64,{base64.b64encode(encoded.tobytes()).decode()}"


def _jpeg(image: Image.Image) -> str:
    """Returns an image as a data URL, a fifth as long as that of a PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _range(values: Histogram) -> str:
    if not values.number:
        return ""
    low, high = f"{values.lowest:g}", f"{values.highest:g}"
    return low if low == high else f"{low} to {high}"


def _pair(*panels: str) -> str:
    return f'<div class="pair">{"".join(panels)}</div>'


def _panel(title: str, content: str) -> str:
    return f'<div class="panel"><h3>{title}</h3>{content}</div>'


def _table(
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    sums: int = 0,
    text_columns: Sequence[int] = (),
) -> str:
    """Returns a table with its last `sums` rows in bold and numbers aligned to the right."""

    def line(cells: Sequence[object], tag: str, kind: str = "") -> str:
        content = [
            f'<{tag} class="{"text" if place in text_columns else "number"}">'
            f"{html.escape(str(cell))}</{tag}>"
            for place, cell in enumerate(cells)
        ]
        return f"<tr{kind}>{''.join(content)}</tr>"

    body = [
        line(row, "td", ' class="sum"' if place >= len(rows) - sums else "")
        for place, row in enumerate(rows)
    ]
    return f"<table>{line(header, 'th')}{''.join(body)}</table>"
