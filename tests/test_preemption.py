"""Being asked to stop: by the main thread's signals, where there are any."""

import threading

from lungseg_jax.runtime.preemption import stop_after_step


def test_a_run_in_another_thread_starts():
    """Fault: training from a job server's or a notebook's thread ends in a ValueError."""
    asked = []

    def train() -> None:
        with stop_after_step() as stop:
            asked.append(stop(1))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert asked == [False]
