"""The range that grey values use, where a file does not say or says too much."""


def largest_value(brightest: int) -> int:
    """Returns the largest value of the fewest bits, at least eight, that hold the brightest."""
    return 2 ** max(8, brightest.bit_length()) - 1
