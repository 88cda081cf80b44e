"""Tests; `test_x.py` is of the module `x`, where a module has tests of its own."""
