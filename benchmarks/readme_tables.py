"""Writes the README's table of results from the committed result files.

python benchmarks/readme_tables.py
"""

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent
START, END = "<!-- results: benchmarks/readme_tables.py -->", "<!-- end of results -->"
EXPERIMENTS = {"unet": "phantoms", "kaggle": "Montgomery + Shenzhen"}


def results_table() -> str:
    """Returns the table of every experiment's test split, and of each source in it."""
    lines = [
        "| config | test pictures | Dice | IoU | HD95 px | ASSD px | time | hardware |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for experiment, data in EXPERIMENTS.items():
        path = ROOT / "benchmarks" / "results" / f"{experiment}.json"
        result = json.loads(path.read_text())
        test = result["metrics"]["test"]
        time = f"{result['seconds'] / 60:.1f} min"
        lines.append(_row(f"`configs/{experiment}.py`", data, test, time, result["hardware"]))
        for source, figures in test.get("by_source", {}).items():
            lines.append(_row("", source.capitalize(), figures, "", ""))
    return "\n".join(lines)


def with_table(readme: str) -> str:
    """Returns the README with the table between its marks replaced."""
    before, _, rest = readme.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{results_table()}\n{END}{after}"


def _row(config: str, data: str, figures: dict, time: str, hardware: str) -> str:
    cells = [
        config,
        f"{figures['num_examples']} ({data})",
        *(f"{figures[key]:.4f}" for key in ("dice", "iou")),
        *(f"{figures[key]:.2f}" for key in ("hd95_px", "assd_px")),
        time,
        hardware,
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(with_table(path.read_text()))
