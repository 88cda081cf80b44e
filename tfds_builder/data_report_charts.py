"""The charts of the page on a set of records, and its mean masks: what is drawn of each group."""

import collections
import html
from collections.abc import Callable, Mapping

import cv2
import numpy as np
from jaxtyping import Float64
from PIL import Image

from tfds_builder.data_report_figures import (
    AGE_EDGES,
    INTENSITY_EDGES,
    SHARE_EDGES,
    SPACING_EDGES,
    Figures,
    GroupFigures,
)
from tfds_builder.html_parts import count, panel, png_address, side_by_side, some, table
from tfds_builder.svg_charts import PALETTE, histogram_chart, round_step

# More lines cannot be told apart, so only the largest groups are drawn; the tables have all.
MAX_LINES = len(PALETTE)

# Of a chart of heights or widths.
SIZE_BINS = 25

# Width of a mean mask on the page, in pixels.
MEAN_MASK_SIDE = 180


def distributions(figures: Figures) -> str:
    """Returns charts of each quantity, by source on the left and by split on the right."""
    intensity = _charts(
        figures,
        ("Intensity", "intensity (0 black, 1 white), without padding", "% of pixels"),
        INTENSITY_EDGES,
        lambda group: group.intensity.counts,
    )
    lung_area = _charts(
        figures,
        ("Lung area", "lung area, % of the exposed field", "% of images"),
        100 * SHARE_EDGES,
        lambda group: group.lung_share.counts,
    )
    return "".join(
        [
            "<h2>Distributions</h2>",
            not_drawn(figures),
            side_by_side(*intensity),
            side_by_side(*lung_area),
            # Together, because of one size there is one panel each.
            side_by_side(
                *_sizes(figures, "Height", lambda group: group.heights),
                *_sizes(figures, "Width", lambda group: group.widths),
            ),
            side_by_side(*_spacing(figures)),
        ]
    )


def mean_masks(figures: Figures) -> str:
    """Returns an image for each group that shows where its lungs are."""
    images = [
        f'<figure><img src="{_mean_mask(group)}" width="{MEAN_MASK_SIDE}" '
        f'height="{MEAN_MASK_SIDE}" alt="mean mask of {html.escape(name)}">'
        f"<figcaption>{html.escape(name)}, {count(group.number, 'record')}</figcaption></figure>"
        for name, group in {**_largest(figures.by_source), **figures.by_split}.items()
    ]
    return (
        "<h2>Where the lungs are</h2><p>The share of records in which a pixel of the model's "
        f"square is lung: black none, white all.</p>{not_drawn(figures)}"
        f'<div class="masks">{"".join(images)}</div>'
    )


def ages(figures: Figures) -> str:
    """Returns charts of the patients' ages; nothing if no age is known."""
    if not any(group.age.number for group in figures.by_split.values()):
        return ""
    labels = ("Age", "age in years", "% of images of known age")
    charts = _charts(figures, labels, AGE_EDGES, lambda group: group.age.counts)
    return not_drawn(figures) + side_by_side(*charts)


def not_drawn(figures: Figures) -> str:
    """Returns a sentence on the sources that charts leave out; nothing if they have all."""
    rest = sorted(figures.by_source.keys() - _largest(figures.by_source).keys())
    if not rest:
        return ""
    verb = "is" if len(rest) == 1 else "are"
    return f"<p>{count(len(rest), 'smaller source')} {verb} not drawn: {some(rest)}.</p>"


def size_edges(lowest: int, highest: int) -> Float64[np.ndarray, " e"]:
    """Returns edges of at most about `SIZE_BINS` bins that hold two different sizes.

    Each bin has a round number of pixels.
    """
    step = max(1, round(round_step((highest - lowest) / SIZE_BINS)))
    return np.arange(lowest // step, highest // step + 2, dtype=float) * step


def _charts(
    figures: Figures,
    labels: tuple[str, str, str],
    edges: Float64[np.ndarray, " e"],
    counts_of: Callable[[GroupFigures], Float64[np.ndarray, " n"]],
) -> list[str]:
    """Returns panels of a quantity's two charts; `labels` are its title and those of both axes."""
    title, across, up = labels
    panels = []
    for word, groups in (("source", _largest(figures.by_source)), ("split", figures.by_split)):
        name = f"{title} by {word}"
        series = {group_name: counts_of(group) for group_name, group in groups.items()}
        panels.append(panel(histogram_chart(name, edges, series, across, up), name))
    return panels


def _sizes(
    figures: Figures, title: str, sizes_of: Callable[[GroupFigures], collections.Counter[int]]
) -> list[str]:
    sizes = set[int]().union(*(sizes_of(group) for group in figures.by_split.values()))
    if len(sizes) == 1:
        return [panel(f"<p>{sizes.pop()} pixels in every image</p>", title)]
    edges = size_edges(min(sizes), max(sizes))

    def counts_of(group: GroupFigures) -> Float64[np.ndarray, " n"]:
        found = sizes_of(group)
        return np.histogram([*found], edges, weights=[*map(float, found.values())])[0]

    across = f"{title.lower()} of the original image, pixels"
    return _charts(figures, (title, across, "% of images"), edges, counts_of)


def _spacing(figures: Figures) -> list[str]:
    rows, series = [], {}
    for name, values in sorted(figures.spacing.items()):
        cells = ["", "", ""]
        # If it is not known, 0 is written.
        if name != "none":
            cells = [f"{mm:.3f}" for mm in (values.lowest, values.mean, values.highest)]
            series[name] = values.counts
        rows.append([name, values.number, *cells])
    header = ["measured on", "records", "lowest mm", "mean mm", "highest mm"]
    panels = [panel(table("Spacing of the rows", header, rows))]
    if series:
        title = "Spacing by what it was measured on"
        chart = histogram_chart(title, SPACING_EDGES, series, "row spacing, mm", "% of images")
        panels.append(panel(chart, title))
    return panels


def _largest(groups: Mapping[str, GroupFigures]) -> dict[str, GroupFigures]:
    ranked = sorted(groups, key=lambda name: -groups[name].number)[:MAX_LINES]
    return {name: groups[name] for name in sorted(ranked)}


def _mean_mask(group: GroupFigures) -> str:
    share = group.mask_sum / max(1, group.number)
    side = (MEAN_MASK_SIDE, MEAN_MASK_SIDE)
    small = cv2.resize(share.astype(np.float32), side, interpolation=cv2.INTER_AREA)
    return png_address(Image.fromarray(np.rint(small * 255).astype(np.uint8)))
