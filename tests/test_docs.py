"""The pages: their links lead somewhere, their commands exist, and public names are explained."""

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lit_jax
from lit_jax.__main__ import COMMANDS
from lit_jax.commands import train
from lit_jax.config import read_config
from lit_jax.utils.errors import ConfigError, DataError, NonFiniteError, WeightError
from tests.command_options import accepted

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "colabs").glob("*.ipynb")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(r"`(?!docs/_build)((?:docs|configs|colabs|benchmarks|lit_jax|tests)/[\w./-]+\.\w+)`")
COMMAND = re.compile(r"(?<![\w/.-])lit-jax ([a-z]+(?!\w)[^\n`]*)")


def prose(page):
    """The text of a page; for a notebook, the text between its code cells."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def commands(page):
    """Every `lit-jax COMMAND ...` on a page, as words; a line that ends in a backslash continues."""
    text = re.sub(r"\\\n\s*", " ", prose(page))
    return [found.split() for found in COMMAND.findall(text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_every_file_that_a_page_names_exists(page):
    text = prose(page)
    away = ("http://", "https://", "#")
    links = [link.partition("#")[0] for link in LINK.findall(text) if not link.startswith(away)]
    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [name for name in FILE.findall(text) if not (ROOT / name).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_names_exists_and_takes_its_options(page):
    for name, *words in commands(page):
        assert name in COMMANDS, f"{page.name}: lit-jax {name}"
        options = {
            re.split(r"[=\])]", word.lstrip("(["))[0].strip(".,:;") for word in words if "--" in word[:3]
        }
        unknown = {option for option in options if not accepted(name, option)}
        assert not unknown, f"{page.name}: lit-jax {name} takes no {', '.join(sorted(unknown))}"


def test_every_page_of_docs_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text()
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages == {link for link in LINK.findall(index) if "/" not in link}
    assert {path.name for path in (ROOT / "colabs").glob("*.ipynb")} == {
        Path(link).name for link in LINK.findall(index) if link.startswith("../colabs/")
    }


@pytest.mark.parametrize("name", [name for name in lit_jax.__all__ if name != "__version__"])
def test_a_public_name_and_its_methods_are_explained(name):
    found = getattr(lit_jax, name)
    assert inspect.getdoc(found)
    if inspect.isclass(found):
        members = {key: getattr(found, key) for key in vars(found) if not key.startswith("_")}
        calls = {key: item for key, item in members.items() if callable(item) or isinstance(item, property)}
        assert [key for key, item in calls.items() if not inspect.getdoc(item)] == []


@pytest.mark.slow
def test_the_reference_is_made_from_the_docstrings_without_a_warning(tmp_path):
    command = [sys.executable, "-W", "error::UserWarning", ROOT / "docs" / "api.py", tmp_path / "site"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr.lower()
    page = (tmp_path / "site" / "lit_jax.html").read_text()
    assert all(f'id="{name}"' in page for name in lit_jax.__all__ if name != "__version__")
    pages = {path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*.html")}
    reached = set(re.findall(r'href="(lit_jax/[\w/]+\.html)"', page))
    assert {name for name in pages if name.count("/") == 1} <= reached
    assert {"lit_jax/train/loop.html", "lit_jax/config.html", "lit_jax/evals.html"} <= reached
    config = (tmp_path / "site" / "lit_jax" / "config.html").read_text()
    # The comment beside the field.
    assert "Image tower, text tower: L locked, U tuned, u from scratch" in config
    every = [(tmp_path / "site" / name).read_text() for name in pages]
    assert not any(
        said in page for page in every for said in ("Alias for field", "Logger ", "Initializes a Module")
    )


def test_the_citation_names_this_version():
    text = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {lit_jax.__version__}\n" in text and "\nlicense: Apache-2.0\n" in text
    assert f"\n## {lit_jax.__version__} " in (ROOT / "CHANGELOG.md").read_text()


def test_the_jobset_trains_a_valid_config_and_fails_on_the_status_of_a_mistake():
    yaml = pytest.importorskip("yaml")
    text = (ROOT / "docs" / "examples" / "jobset.yaml").read_text().replace("BUCKET", "bucket")
    spec = yaml.safe_load(text)["spec"]["replicatedJobs"][0]["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    command, *args = container["args"]
    config, values = train.FLAGS.parse(args)
    assert command == "train" and values["workdir"].startswith("gs://")
    assert read_config(config).data.train.endswith("{00000..00331}.tar")
    mistakes = {error.exit_code for error in (ConfigError, DataError, WeightError, NonFiniteError)}
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == sorted(mistakes)
    assert rule["onExitCodes"]["containerName"] == container["name"]
