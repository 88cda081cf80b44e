"""Draws the README's comparison with PyTorch from the committed result files.

  python -m benchmarks.peers_plot

Writes `docs/peers.svg`.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from benchmarks.command import call_with_arguments
from benchmarks.document_style import GRID, INK, svg_document, svg_text
from benchmarks.result_files import RESULTS, read_result
from tfds_builder.svg_charts import PALETTE

PLOT = RESULTS.parent.parent / "docs" / "peers.svg"

# By the data type in which PyTorch computes: colour and name.
SERIES = {"float32": (PALETTE[0], "float32"), "bfloat16": (PALETTE[1], "bfloat16 autocast")}

WIDTH, LABELS, VALUES = 760, 285, 60
TOP, HEADING, ROW, CASE_GAP, AXIS = 30, 30, 16, 5, 40


class Row(NamedTuple):
    """A comparison: our rate over PyTorch's, turn by turn.

    Attributes:
      dtype: data type in which PyTorch computes.
      ratios: ratios of the turns.
      median: median of the ratios.
    """

    dtype: str
    ratios: list[float]
    median: float


# By hardware, then by work.
Sections = dict[str, dict[str, list[Row]]]


def chart(sections: Sections) -> str:
    """Returns an SVG document with one line per row, on a logarithmic axis of ratios."""
    cases = [rows for section in sections.values() for rows in section.values()]
    rows = [row for rows in cases for row in rows]
    ratios = [1.0, *(ratio for row in rows for ratio in row.ratios)]
    low = min(0.5, 2.0 ** math.floor(math.log2(min(ratios))))
    high = max(2.0, 2.0 ** math.ceil(math.log2(max(ratios))))

    def across(ratio: float) -> float:
        share = math.log2(ratio / low) / math.log2(high / low)
        return LABELS + share * (WIDTH - VALUES - LABELS)

    height = TOP + HEADING * len(sections) + CASE_GAP * len(cases) + ROW * len(rows) + AXIS
    parts = _axis(low, high, across, height) + _key({row.dtype for row in rows})
    y = float(TOP)
    for hardware, section in sections.items():
        y += HEADING
        parts.append(svg_text(8, y - 8, hardware, anchor="start", weight="600"))
        for label, case in section.items():
            y += CASE_GAP
            parts.append(svg_text(LABELS - 12, y + ROW / 2 + 4, label, anchor="end"))
            for row in case:
                parts += _lollipop(row, across, y + ROW / 2)
                y += ROW
    return svg_document(WIDTH, height, "Rate of lungseg_jax over that of PyTorch", parts)


def sections_of(results: Mapping[str, Any]) -> Sections:
    """Returns the comparisons in the cases of result files."""
    sections: Sections = {}
    for case in results.values():
        section = sections.setdefault(case["hardware"], {})
        for kind in ("ratios", "exported_ratios"):
            for dtype, ratio in case.get(kind, {}).items():
                if ratio is not None:
                    label = _label(case["programs"][ratio["ours"]])
                    rows = section.setdefault(label, [])
                    rows.append(Row(dtype, ratio["by_turn"], ratio["median"]))
    return sections


def _label(ours: Mapping[str, Any]) -> str:
    task = {"train": "training step", "inference": "inference"}[ours["task"]]
    if ours["library"] == "openvino":
        task = "OpenVINO"
    return f"{task}, {ours['image_size']}², width {ours['width']}, batch {ours['batch_size']}"


def read_results() -> dict[str, Any]:
    """Returns the cases of all committed comparisons, by file and name."""
    cases = {}
    for file in ["peers_cpu", *sorted(path.stem for path in RESULTS.glob("gpu_*.json"))]:
        found = read_result(file).get("cases", {})
        cases |= {f"{file} {name}": case for name, case in found.items()}
    return cases


def _axis(low: float, high: float, across: Any, height: int) -> list[str]:
    bottom = height - AXIS + 4
    parts = []
    exponents = range(round(math.log2(low)), round(math.log2(high)) + 1)
    # The labels of a wide axis would overlap.
    step = 1 if len(exponents) <= 8 else 2
    for exponent in exponents:
        x, stroke = across(2.0**exponent), GRID if exponent else INK
        parts.append(f'<path d="M{x:.1f},{TOP}V{bottom}" stroke="{stroke}"/>')
        if exponent % step == 0:
            parts.append(svg_text(x, bottom + 14, f"{2.0**exponent:g}"))
    one = across(1.0)
    return [
        *parts,
        svg_text(LABELS - 8, height - 7, "ratio, on a logarithmic axis", anchor="start"),
        svg_text(one - 8, height - 7, "← slower", anchor="end"),
        svg_text(one + 8, height - 7, "faster than PyTorch →", anchor="start"),
    ]


def _key(dtypes: set[str]) -> list[str]:
    title = "Images a second of lungseg_jax over those of PyTorch in"
    parts = [
        svg_text(8, 18, title, anchor="start", weight="600"),
        svg_text(WIDTH - 8, 18, "median", anchor="end", weight="600"),
    ]
    x = 425.0
    for dtype, (colour, name) in SERIES.items():
        if dtype in dtypes:
            parts.append(f'<circle cx="{x:.1f}" cy="14" r="5" fill="{colour}"/>')
            parts.append(svg_text(x + 10, 18, name, anchor="start"))
            x += 80
    return parts


def _lollipop(row: Row, across: Any, y: float) -> list[str]:
    colour, _ = SERIES[row.dtype]
    x = across(row.median)
    parts = [f'<path d="M{across(1.0):.1f},{y:.1f}H{x:.1f}" stroke="{colour}" stroke-width="3"/>']
    parts += [
        f'<circle cx="{across(ratio):.1f}" cy="{y:.1f}" r="2.5" fill="none" stroke="{colour}"/>'
        for ratio in row.ratios
    ]
    parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>')
    parts.append(svg_text(WIDTH - 8, y + 4, f"{row.median:.2f}", anchor="end"))
    return parts


def main() -> None:
    """Draws the image."""
    PLOT.write_text(chart(sections_of(read_results())))


if __name__ == "__main__":
    call_with_arguments(main, __doc__)
