"""Tables in a terminal."""

import unicodedata

from lungseg_jax.terminal import table


def test_columns_are_aligned_whatever_the_letters():
    """Fault: figures under another heading, because a name has wide letters or accents apart."""
    names = ["test", "test 胸部", unicodedata.normalize("NFD", "test Köln")]
    lines = table(["split", "Dice"], [[name, ".97"] for name in names]).splitlines()
    # A Chinese letter takes two columns, a combining accent none.
    beyond = [0, 0, 0, -2, 1]
    assert [len(line) for line in lines] == [len(lines[0]) + more for more in beyond]
    assert all(line.endswith("  .97") for line in lines[2:])
