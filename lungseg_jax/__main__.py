"""Lists the commands, each of which has a module: python -m lungseg_jax."""

import ast
from pathlib import Path

import lungseg_jax
from lungseg_jax import terminal

COMMANDS = (
    "lungseg_jax.predict",
    "lungseg_jax.main",
    "lungseg_jax.build",
    "lungseg_jax.validate",
    "lungseg_jax.measure",
    "lungseg_jax.compare",
    "lungseg_jax.summarize",
    "lungseg_jax.export",
    "lungseg_jax.export_onnx",
    "tfds_builder.data_report",
    "tfds_builder.verify",
)


def list_commands() -> str:
    """Returns the version, and each command with what it does."""
    folder = Path(__file__).parents[1]
    lines = [f"lungseg_jax {lungseg_jax.__version__}", ""]
    for command in COMMANDS:
        # Read, because importing all of them takes seconds.
        source = folder.joinpath(*command.split(".")).with_suffix(".py").read_text("utf-8")
        purpose = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
        lines += [f"python -m {command}", f"    {purpose}"]
    return "\n".join([*lines, "", "--help after a command lists its flags."])


if __name__ == "__main__":
    terminal.show(list_commands())
