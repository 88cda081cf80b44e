"""Answers computed ahead of their use."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from lungseg_jax.runtime.ahead import map_ahead


def test_no_more_is_computed_than_was_asked_for():
    """Fault: the whole archive decoded in memory while the network works on its first images."""
    taken = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    with ThreadPoolExecutor(4) as pool:
        answers = map_ahead(pool, lambda item: -item, items(), ahead=3)
        for item, answer in enumerate(answers):
            assert answer == -item
            assert len(taken) <= item + 1 + 3
    assert len(taken) == 100


def test_answers_keep_their_order_though_the_first_is_the_slowest():
    """Fault: one image's mask in the row of another."""
    last_is_done = threading.Event()

    def wait_if_first(item: int) -> int:
        if item == 0:
            assert last_is_done.wait(60)
        if item == 3:
            last_is_done.set()
        return item

    with ThreadPoolExecutor(4) as pool:
        assert list(map_ahead(pool, wait_if_first, range(4), ahead=4)) == [0, 1, 2, 3]
