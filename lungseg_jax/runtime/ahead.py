"""Results in order, some computed ahead."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def map_ahead(
    pool: concurrent.futures.Executor,
    function: Callable[[Item], Answer],
    items: Iterable[Item],
    ahead: int,
) -> Iterator[Answer]:
    """Yields results in the order of the items; an executor's own map starts them all.

    Args:
      pool: computes the results.
      function: a function of one item.
      items: taken as they are needed.
      ahead: how many results may be waiting.
    """
    running: collections.deque[concurrent.futures.Future] = collections.deque()
    for item in items:
        running.append(pool.submit(function, item))
        if len(running) > ahead:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()
