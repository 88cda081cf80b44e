"""Tables in a terminal."""

import unicodedata

from lungseg_jax import terminal
from lungseg_jax.terminal import table


def test_without_a_terminal_progress_is_a_line_now_and_then(monkeypatch, capsys):
    """Fault: an hour without a sign of life in a log, or a line for every file."""
    clock = [0.0]
    monkeypatch.setattr("lungseg_jax.terminal.time.monotonic", lambda: clock[0])
    with terminal.progress("segment", 1000, "file", initial=100) as bar:
        for _ in range(100):
            clock[0] += 1.0
            bar.update(2)
        # After 61 seconds; the rate does not count what was done before.
        assert capsys.readouterr().err == "segment: 222 of 1000 files, 2 a second\n"
        bar.set_postfix_str("loss 0.5")
        clock[0] += 61.0
        bar.update(2)
    assert capsys.readouterr().err == "segment: 302 of 1000 files, loss 0.5\n"


def test_columns_are_aligned_whatever_the_letters():
    """Fault: figures under another heading, because a name has wide letters or accents apart."""
    names = ["test", "test 胸部", unicodedata.normalize("NFD", "test Köln")]
    lines = table(["split", "Dice"], [[name, ".97"] for name in names]).splitlines()
    # A Chinese letter takes two columns, a combining accent none.
    beyond = [0, 0, 0, -2, 1]
    assert [len(line) for line in lines] == [len(lines[0]) + more for more in beyond]
    assert all(line.endswith("  .97") for line in lines[2:])
