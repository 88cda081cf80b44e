"""The image of estimated against true Dice."""

import re

import pytest

from benchmarks.quality_plot import LEFT, LOW, PLOT, SIDE, TOP, chart, read_results

QUALITY = {"rank_correlation": 0.5, "points": [[1.0, LOW], [LOW, 1.0], [0.2, 0.1]]}


def test_places_of_dots():
    """Fault: axes exchanged or upside down, or a bad mask that falls out of the image."""
    dots = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', chart({"": QUALITY}))
    places = [(float(x), float(y)) for x, y in dots]
    right, left, bottom, top = LEFT + SIDE, LEFT, TOP + SIDE, TOP
    assert places == [
        pytest.approx((right, bottom)), pytest.approx((left, top)), pytest.approx((left, bottom)),
    ]  # fmt: skip


def test_image_is_that_of_the_result_files():
    """Fault: an image in the model card that no committed measurement has."""
    assert PLOT.read_text() == chart(read_results())
