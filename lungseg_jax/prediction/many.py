"""Many images through a segmenter: reading, networks and what follows work at the same time."""

import concurrent.futures
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TypeVar

import numpy as np
from jaxtyping import Shaped

from lungseg_jax.prediction.segmenter import BATCH_SIZE, Prediction, Segmenter
from lungseg_jax.runtime.ahead import map_ahead
from lungseg_jax.runtime.cores import num_readers

Item = TypeVar("Item")
Reading = TypeVar("Reading")
Answer = TypeVar("Answer")
Square = Shaped[np.ndarray, "s s 1"]


def segment_many(
    segmenter: Segmenter,
    items: Iterable[Item],
    read: Callable[[Item], tuple[Square | None, Reading]],
    finish: Callable[[Item, Reading, Prediction | None], Answer],
    stop_reading: Callable[[], None],
) -> Generator[Answer]:
    """Yields what `finish` makes of each item, in order.

    Args:
      segmenter: the networks.
      items: what is segmented.
      read: returns an item's network input, `None` if it has none, and what `finish` needs besides.
        Called in threads, ahead of the networks.
      finish: makes an answer of an item, of what was read, and of what the networks say, `None` if
        there was no input. Called in threads, while the next items are predicted.
      stop_reading: ends reads under way, after a fault or an interrupt.
    """
    workers = num_readers()
    with (
        concurrent.futures.ThreadPoolExecutor(workers) as readers,
        concurrent.futures.ThreadPoolExecutor(workers) as finishers,
    ):
        readings = map_ahead(readers, lambda item: (item, *read(item)), items, workers + BATCH_SIZE)
        predicted = _predict(segmenter, readings)
        try:
            ahead = workers + BATCH_SIZE
            yield from map_ahead(finishers, lambda one: finish(*one), predicted, ahead)
        except BaseException:
            # After a fault or an interrupt: otherwise what is being read would be waited for.
            readers.shutdown(wait=False, cancel_futures=True)
            stop_reading()
            raise


def _predict(
    segmenter: Segmenter, readings: Iterator[tuple[Item, Square | None, Reading]]
) -> Iterator[tuple[Item, Reading, Prediction | None]]:
    """Yields what the networks say about the images, a batch at a time."""
    while group := list(itertools.islice(readings, BATCH_SIZE)):
        squares = [square for _, square, _ in group if square is not None]
        predictions = iter(segmenter.predict(squares) if squares else ())
        for item, square, reading in group:
            yield item, reading, None if square is None else next(predictions)
