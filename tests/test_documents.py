"""The README and its companions against what they speak of."""

import ast
import dataclasses
import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.readme_tables import TABLES, with_tables
from lungseg_jax.config import default_config
from lungseg_jax.prediction.table import Row
from tests.small import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
CONTRIBUTING = (REPOSITORY / "CONTRIBUTING.md").read_text()
COMPANIONS = [path.read_text() for path in sorted((REPOSITORY / "docs").glob("*.md"))]
TEXT = "\n".join([README, CONTRIBUTING, *COMPANIONS])
DOCUMENTS = [
    path
    for pattern in ("*.md", "docs/*.md", "benchmarks/*.md", "lungseg_jax/pretrained/*.md")
    for path in sorted(REPOSITORY.glob(pattern))
]


@pytest.mark.parametrize("document", TABLES)
def test_tables_are_those_of_the_result_files(document):
    """Fault: figures that no committed measurement has."""
    text = (REPOSITORY / document).read_text()
    assert with_tables(text, TABLES[document]) == text


@pytest.mark.parametrize("text", ["", "<!-- gpu: benchmarks/readme_tables.py -->\nmore text"])
def test_a_document_without_its_marks_is_refused(text):
    """Fault: a table put at the end, or in place of all that follows."""
    with pytest.raises(ValueError, match="0 times"):
        with_tables(text, {"gpu": lambda: "a table"})


def test_every_key_exists():
    """Fault: a command copied from the README that is refused."""
    keys = set(re.findall(r"--config\.([a-z_.]+)=", TEXT))
    assert len(keys) > 8
    assert keys <= set(_flat(default_config().to_dict()))


def blocks(language: str) -> list[str]:
    """The code blocks of a language, lines that go on joined."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    return [block.replace("\\\n", " ") for block in found]


COMMANDS = sorted(set(re.findall(r"python -m +([\w.]+)([^\n&#]*)", "\n".join(blocks("bash")))))


@pytest.mark.parametrize(("module", "arguments"), COMMANDS)
def test_every_command_has_its_module_and_its_flags(module, arguments):
    """Fault: a command copied from the README that ends in an error."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    usage = ast.get_docstring(ast.parse(Path(spec.origin).read_text()))
    # What is quoted is another program's.
    flags = re.findall(r"--([a-z_]+)", re.sub(r'="[^"]*"', "=", arguments))
    for flag in set(flags) - {"config"}:
        assert f"--{flag}" in str(usage), flag


def test_commands_are_found():
    """Fault: an expression that matches nothing, so that nothing is looked at."""
    assert len(COMMANDS) > 20


@pytest.mark.parametrize("block", blocks("python"))
def test_every_name_that_is_imported_exists(block):
    """Fault: an example that does not even begin."""
    for node in ast.parse(block).body:
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names)


# What the examples speak of: a small network for the default one, the phantoms and the run that
# commands above them have made, an image.
BEFORE_AN_EXAMPLE = """
from pathlib import Path
import lungseg_jax.config
from lungseg_jax.performance import roofline
from tests.images import dicom_bytes
from tests.small import SMALL, small_config
from tfds_builder.phantom import generate_phantom

whole = lungseg_jax.config.default_config

def small():
    config = whole()
    config.update_from_flattened_dict(SMALL)
    return config

lungseg_jax.config.default_config = small
roofline.CPU_SIDES = (128, 256)
array = generate_phantom(5, 4).image
phantoms = Path("~/.cache/lungseg_jax/downloads/phantoms-1-200-0/images").expanduser()
phantoms.mkdir(parents=True)
(phantoms / "phantom_00000.dcm").write_bytes(dicom_bytes((array * 4095).astype("uint16")))
"""
A_RUN = """
from lungseg_jax.train import train_and_evaluate
train_and_evaluate(small_config(), "runs/first")
"""


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("python"))
def test_every_example_runs(tmp_path, block):
    """Fault: an example that begins and ends in an error, because a function has changed."""
    script = BEFORE_AN_EXAMPLE + A_RUN * ("runs/first" in block) + block
    environment = os.environ | {"HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True)


def test_the_table_of_keys_has_their_defaults():
    """Fault: a default that was changed in the code alone."""
    section = README.partition("## Configuration")[2].partition("\n## ")[0]
    defaults = _flat(default_config().to_dict())
    rows = re.findall(r"^\| (`[^|]+`) \| ([^|]*)\|", section, re.MULTILINE)
    stated = {}
    for keys, values in rows:
        names = re.findall(r"`([\w.]+)`", keys)
        if names and all(name in defaults for name in names):
            stated |= dict(zip(names, (x.strip(" `") for x in values.split(",")), strict=True))
    assert len(stated) > 10
    assert stated == {name: str(defaults[name]) for name in stated}


def test_the_columns_of_the_table_are_those_that_are_documented():
    """Fault: a column renamed, which scripts read by its name."""
    text = (REPOSITORY / "docs" / "predict.md").read_text().partition("\n## ")[0]
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", text, re.MULTILINE)
    documented = [name for row in rows for name in re.findall(r"\w+", row)]
    assert sorted(documented) == sorted(field.name for field in dataclasses.fields(Row))


FOLDERS = "configs|benchmarks|docs|examples|lungseg_jax|tests|tfds_builder"
PATHS = rf"(?:{FOLDERS})/[\w/]+\.(?:py|md|json|svg|ipynb)"


@pytest.mark.parametrize("path", sorted(set(re.findall(PATHS, TEXT))))
def test_every_file_exists(path):
    """Fault: a renamed file or a missing image."""
    assert (REPOSITORY / path).is_file()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_within_the_repository_leads_somewhere(document):
    """Fault: a file or section that moved, still linked where it was."""
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", document.read_text())
    for target, section in links:
        path = document.parent / target if target else document
        assert path.exists(), target
        if section:
            titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert section in [re.sub(r"[^\w -]", "", x).lower().replace(" ", "-") for x in titles]


def test_documents_are_found():
    """Fault: folders that moved, so that no link is looked at."""
    assert {"README.md", "data.md", "NOTES.md", "MODEL_CARD.md"} <= {x.name for x in DOCUMENTS}


def test_what_a_change_touches_holds_the_names_that_are_given():
    """Fault: a function that was renamed or moved, searched for where it is said to be."""
    section = CONTRIBUTING.partition("\n## Change it\n")[2].partition("\n## ")[0]
    parts = re.findall(r"^\| .*|^Under (?:.+\n)+", section, re.MULTILINE)
    assert len(parts) > 8
    placed = re.compile(r"((?:`\w+`(?:, | or )?)+)(?: that is new)? in `([\w/]+\.py)`")
    found = [
        (name, path)
        for part in parts
        for names, path in placed.findall(part)
        for name in re.findall(r"`(\w+)`", names)
    ]
    assert len(found) > 12
    for name, path in found:
        definition = rf"^ *(?:def|class) {name}\b|^ *{name}\b.*="
        assert re.search(definition, (REPOSITORY / path).read_text(), re.MULTILINE), (name, path)


def _flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat
