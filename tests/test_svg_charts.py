"""Charts show their values, and every line in them can be seen."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from tests.charts import bars_in
from tfds_builder.svg_charts import DASHES, PALETTE, bar_chart, histogram_chart, round_step


def test_charts_have_the_shares():
    """Fault: bars or lines of another height than their values; lines drawn along empty bins."""
    series = {"a<b": np.array([3.0, 0, 1]), "no": np.zeros(3)}
    lines = bars_in(histogram_chart("t", np.array([0.0, 1, 2, 3]), series, "x", "y"), "t")
    assert lines.keys() == {"a<b"}
    assert lines["a<b"] == pytest.approx(np.array([[0, 1, 75], [2, 3, 25]]), abs=0.1)
    bars = bar_chart("files", {"taken": 10, "bad": 5})
    widths = [float(part.partition('"')[0]) for part in bars.split('" width="')[1:]]
    assert widths[0] == 2 * widths[1]
    assert "no values" in bar_chart("files", {})
    assert "no values" in histogram_chart("t", np.array([0.0, 1]), {}, "x", "y")


@pytest.mark.parametrize("low", [0.0, 0.3])
def test_ticks_lie_within_the_axis(low: float):
    """Fault: a label beyond the end of its axis."""
    chart = histogram_chart("t", np.array([low, 1, 2.2]), {"a": np.array([3.0, 1])}, "x", "y")
    # Up to 1.05 x 75 %, and from the first edge to the last.
    shares, values = ["0", "20", "40", "60"], ["0.5", "1", "1.5", "2"]
    assert re.findall(r">(-?[\d.]+)</text>", chart) == [*shares, *["0"] * (low == 0), *values]


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.2."""
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("colour", PALETTE)
def test_lines_stand_out_from_white(colour: str):
    """Fault: a line too pale for those who see contrast badly (WCAG asks for 3:1)."""
    assert 1.05 / (luminance(colour) + 0.05) >= 3


def test_lines_that_coincide_remain_visible():
    """Fault: of three splits with the same sizes the last alone is seen, or only by colour."""
    assert len(set(DASHES)) == len(DASHES) == len(PALETTE)
    counts = np.array([0.0, 4, 0])
    series = {f"split {n}": counts for n in range(len(PALETTE))}
    lines = re.findall(
        r'<path d="M\d[^"]*V[^"]*" [^>]*dasharray="(.*?)"',
        histogram_chart("t", np.arange(4.0), series, "x", "y"),
    )
    assert len(lines) == len(PALETTE)
    # Whatever lies over the first line has gaps.
    assert lines[0] == "none"
    assert all(len(line.split()) % 2 == 0 for line in lines[1:])


def test_each_axis_has_a_title_and_each_chart_a_name():
    """Fault: a percentage of what?; a chart that a screen reader calls "image"."""
    text = histogram_chart("Height", np.arange(3.0), {"a": np.ones(2)}, "pixels", "% of images")
    chart = ET.fromstring(text[: text.index("</svg>") + 6])
    words = [element.text for element in chart.iter("text")]
    assert {"pixels", "% of images"} <= {*words}
    assert {"Height", "a"} <= {*re.findall(r"\w+", chart.attrib["aria-label"])}
    bars = ET.fromstring(bar_chart("Files", {"taken": 7}))
    assert {"Files", "taken", "7"} <= {*re.findall(r"\w+", bars.attrib["aria-label"])}


@pytest.mark.parametrize(
    ("least", "step"), [(0.03, 0.05), (1.0, 1.0), (1.2, 2.0), (5.1, 10.0), (180.0, 200.0)]
)
def test_steps_are_round_and_large_enough(least: float, step: float):
    """Fault: bins of 7.3 pixels, or more of them than asked for."""
    assert round_step(least) == pytest.approx(step)
