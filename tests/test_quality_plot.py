"""The image of estimated against true Dice."""

import re

import pytest

from benchmarks import quality_plot
from benchmarks.quality_plot import LEFT, LOW, PLOT, SIDE, TOP, chart, read_results

QUALITY = {"rank_correlation": 0.5, "points": [[1.0, LOW], [LOW, 1.0], [0.9, 0.1], [0.2, 0.1]]}


def test_places_of_dots():
    """Fault: axes exchanged or upside down."""
    dots = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', chart({"": QUALITY}))
    places = [(float(x), float(y)) for x, y in dots]
    right, left, bottom, top = LEFT + SIDE, LEFT, TOP + SIDE, TOP
    assert places == [pytest.approx((right, bottom)), pytest.approx((left, top))]


def test_marks_below_the_axes():
    """Fault: a bad mask that falls out of the image, or is taken for one that lies on the axis."""
    image = chart({"": QUALITY})
    tips = [
        (float(x) + 5, float(y) + 9)
        for x, y in re.findall(r'd="M([\d.]+),([\d.]+)h10l-5,9z"', image)
    ]
    bottom = TOP + SIDE
    assert tips == [pytest.approx((LEFT + SIDE / 2, bottom)), pytest.approx((LEFT, bottom))]
    assert "2 below .8" in image
    assert "below .8" not in chart({"": QUALITY | {"points": [[1.0, LOW]]}})


def test_the_bound_is_the_one_that_rejects(monkeypatch):
    """Fault: a line at a Dice, or at an estimate that predictions are not rejected by."""
    monkeypatch.setattr(quality_plot, "MIN_DICE", 0.95)
    image = chart({"": QUALITY})
    assert f"M{LEFT + 0.75 * SIDE:.1f},{TOP}V{TOP + SIDE}" in image
    assert "rejected below .95" in image


def test_image_is_that_of_the_result_files():
    """Fault: an image in the model card that no committed measurement has."""
    assert PLOT.read_text() == chart(read_results())
