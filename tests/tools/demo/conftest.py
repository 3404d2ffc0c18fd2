"""A model, an index of its pictures, and a page of both."""

import pytest

import lit_jax
from lit_jax.inference.embedder import Embedder
from lit_jax.tools.demo import guards
from tests import tiny
from tests.tools.demo.pages import served


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    tiny.write_models_and_pictures(folder)
    with (folder / "large.png").open("wb") as file:
        file.truncate(guards.MOST + 1)
    whole = (folder / "pairs" / "000.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture(scope="session")
def model(place):
    return Embedder(place / "model")


@pytest.fixture(scope="session")
def index(place, model):
    return lit_jax.embed(f"folder:{place / 'pairs'}", place / "index", model)


@pytest.fixture(scope="session")
def address(place, model, index):
    return served(model, index, pictures=f"folder:{place / 'pairs'}")
