"""Reads and writes the committed figures, `benchmarks/results/NAME.json`."""

import json
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def read_result(name: str) -> dict[str, Any]:
    """Returns the content of a result file."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def earlier_result(name: str) -> dict[str, Any]:
    """Returns what a script adds its figures to: the content of a result file, or nothing yet."""
    return read_result(name) if (RESULTS / f"{name}.json").exists() else {}


def write_result(name: str, content: dict[str, Any]) -> None:
    """Writes a result file and says so on standard error.

    Raises:
      ValueError: a figure is not finite.
    """
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    print(f"Wrote {path}", file=sys.stderr)
