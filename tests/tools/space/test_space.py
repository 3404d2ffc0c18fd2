"""A Space: the folder holds all that its page needs, and the page runs from it."""

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib import metadata

import pytest
import yaml
from huggingface_hub import SpaceCard
from packaging.requirements import Requirement

from lit_jax.hf import save as saving
from lit_jax.tools.space import space
from lit_jax.utils.errors import ConfigError, WeightError
from tests import tiny
from tests.cli import cli
from tests.processes import free_port


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model with a card, and its Space."""
    folder = tmp_path_factory.mktemp("space")
    saving.save(folder / "model", *tiny.dual(0), tiny.processor())
    (folder / "model/README.md").write_text("---\nlicense: cc-by-sa-4.0\n---\n# A model\n")
    space.write(folder / "model", folder / "birds", repo_id="owner/birds")
    return folder


def test_the_card_is_one_of_a_docker_space_with_the_licence_of_the_model(place):
    data = SpaceCard.load(place / "birds/README.md").data
    assert (data.sdk, data.app_port, data.title) == ("docker", 7860, "birds")
    assert (data.license, data.models) == ("cc-by-sa-4.0", ["owner/birds"])
    head = (place / "birds/README.md").read_text().split("---")[1]
    assert yaml.safe_load(head)["app_port"] == 7860
    docker = (place / "birds/Dockerfile").read_text()
    assert "EXPOSE 7860" in docker
    assert docker.startswith(f"FROM python:{sys.version_info.major}.{sys.version_info.minor}-slim\n")


def test_the_requirements_are_what_is_installed_and_the_page_imports(place):
    lines = (place / "birds/requirements.txt").read_text().split()
    pinned = {Requirement(line).name: Requirement(line) for line in lines}
    assert all(str(r.specifier) == f"=={metadata.version(name)}" for name, r in pinned.items())
    assert {"jax", "transformers", "uvicorn", "starlette", "python-multipart"} <= {*pinned}
    assert not {"torch", "pytest", "onnx"} & {*pinned}


def test_the_folder_holds_the_model_and_the_code_and_nothing_of_this_machine(place):
    files = [p for p in (place / "birds").rglob("*") if p.is_file()]
    assert {"config.json", "model.safetensors"} <= {p.name for p in (place / "birds/models/birds").iterdir()}
    assert (place / "birds/lit_jax/tools/pages/demo.html").is_file()
    assert not any("__pycache__" in p.parts for p in files)
    ours = [p for p in files if p.parent == place / "birds"]
    assert not any(re.search(str(place), p.read_text()) for p in ours)


def test_a_space_that_cannot_be_written_is_refused_before_anything_is(place, tmp_path):
    model = place / "model"
    with pytest.raises(ConfigError, match=r"birds exists and is not an empty folder; choose another --space"):
        space.write(model, place / "birds")
    with pytest.raises(ConfigError, match=r"lies in the model's folder .*; choose a folder beside it"):
        space.write(model, model / "space")
    with pytest.raises(WeightError, match=r"config.json|not a model"):
        space.write(tmp_path, tmp_path.parent / "new-space")
    saving.save(tmp_path / "towers", *tiny.dual(0), tiny.processor(), layout="towers")
    with pytest.raises(WeightError, match=r"is a model in the layout 'towers' .* joined again by"):
        space.write(tmp_path / "towers", tmp_path / "page")
    assert not (tmp_path / "page").exists()
    asked = ("--model", model, "--output", tmp_path / "o", "--space", tmp_path / "page", "--layout", "towers")
    done = cli("export", *asked)
    assert (
        done.returncode == 2
        and "--space shows a whole model" in done.stderr
        and not (tmp_path / "o").exists()
    )
    assert not (model / "space").exists() and not (tmp_path.parent / "new-space").exists()


def test_a_licence_of_another_name_is_stated_with_it(place, tmp_path):
    shutil.copytree(place / "model", tmp_path / "model")
    (tmp_path / "model/README.md").write_text("---\nlicense: other\nlicense_name: mine\n---\n")
    data = SpaceCard.load(space.write(tmp_path / "model", tmp_path / "page") / "README.md").data
    assert (data.license, data.license_name) == ("other", "mine") and not data.models


@pytest.mark.slow
def test_export_writes_a_space_whose_page_runs_on_the_code_in_it(place, tmp_path):
    done = cli(
        "export", "--model", place / "model", "--output", tmp_path / "out", "--space", tmp_path / "page"
    )
    assert done.returncode == 0 and "hf repos create OWNER/NAME --type space --sdk docker" in done.stdout
    with (tmp_path / "page/lit_jax/tools/pages/style.css").open("a") as style:
        style.write("/* this copy */")
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"PORT": str(port), "SPACE_HOST": "owner-birds.hf.space", "JAX_PLATFORMS": "cpu"}
    app = subprocess.Popen([sys.executable, "app.py"], cwd=tmp_path / "page", env=environment)
    try:
        status, headers, text = answer(port, "owner-birds.hf.space")
        assert status == 200 and "sent to the server that it runs on" in text and "<h1>page</h1>" in text
        assert headers["Content-Security-Policy"].endswith("frame-ancestors https://huggingface.co")
        assert answer(port, "elsewhere.example")[0] == 400
        assert "/* this copy */" in answer(port, "localhost", "style.css")[2]
    finally:
        app.terminate()
        app.wait(30)


def answer(port, host, path="", seconds=90):
    """Status, headers and text of the page, as soon as there is one."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", headers={"Host": host})
    for _ in range(seconds * 5):
        try:
            with urllib.request.urlopen(request, timeout=10) as found:
                return found.status, found.headers, found.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read().decode()
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the page did not come")
