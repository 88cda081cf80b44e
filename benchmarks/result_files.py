"""Reads and writes the committed figures, `benchmarks/results/NAME.json`."""

import json
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def read_result(name: str) -> dict[str, Any]:
    """Returns the content of a result file, empty if there is none yet."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def write_result(name: str, content: dict[str, Any]) -> None:
    """Writes a result file and says so on standard error.

    Raises:
      ValueError: a figure is not finite.
    """
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    print(f"Wrote {path}", file=sys.stderr)
