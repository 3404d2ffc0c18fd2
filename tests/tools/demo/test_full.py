"""A server that is out of memory, or fails, answers with one sentence and continues."""

import base64
import json
import logging
import subprocess

import jax
import jax.numpy as jnp
import pytest

from lit_jax.inference.embedder import Embedder
from tests.tools.demo.pages import asked, posted, served


@pytest.fixture
def failing(model, index, monkeypatch):
    """The address of a page, and a list: unless it is empty, embedding texts raises its first error."""
    errors, texts = [], Embedder.texts

    def fail(self, *args):
        if errors:
            raise errors[0]
        return texts(self, *args)

    monkeypatch.setattr(Embedder, "texts", fail)
    return served(model, index), errors


def full_device():
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        jnp.zeros((1 << 24, 1 << 24))
    return caught.value


def questions(place):
    image = base64.b64encode((place / "pairs/000.png").read_bytes()).decode()
    return {
        "embed": {"texts": ["a"]},
        "classify": {"images": [image], "labels": ["a", "b"]},
        "search": {"text": "a"},
    }


@pytest.mark.parametrize("error", [full_device, lambda: MemoryError("Unable to allocate 8 GiB")])
def test_a_full_device_gets_503_in_one_sentence_and_the_server_continues(place, failing, error, caplog):
    address, errors = failing
    errors.append(error())
    for question, fields in questions(place).items():
        status, headers, said = asked(f"{address}api/{question}", json.dumps(fields).encode())
        assert status == 503 and headers["Retry-After"] == "5"
        assert json.loads(said)["error"].startswith("The server is out of memory; ask for less at once")
    assert posted(f"{address}search", query="a") == (503, json.loads(said)["error"])
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert all("a lower --batch-size" in record.getMessage() for record in caplog.records)
    errors.clear()
    for question, fields in questions(place).items():
        assert asked(f"{address}api/{question}", json.dumps(fields).encode())[0] == 200
    assert posted(f"{address}search", query="a")[0] == 200


def test_an_error_of_ours_gets_500_in_one_sentence_and_its_traceback_is_only_in_the_log(
    place, failing, caplog
):
    address, errors = failing
    errors.append(RuntimeError("INTERNAL: secret"))
    status, _, said = asked(f"{address}api/embed", json.dumps(questions(place)["embed"]).encode())
    assert status == 500
    assert json.loads(said) == {"error": "The server failed on this request; its log says why."}
    assert posted(f"{address}search", query="a") == (500, json.loads(said)["error"])
    assert "INTERNAL: secret" in caplog.text and "Traceback" in caplog.text


def test_a_machine_that_cannot_start_a_process_answers_503(place, model, index, monkeypatch):
    def fail(*_, **__):
        raise OSError(24, "Too many open files")

    address = served(model, index)
    monkeypatch.setattr(subprocess, "Popen", fail)
    fields = {"images": questions(place)["classify"]["images"]}
    status, headers, said = asked(f"{address}api/embed", json.dumps(fields).encode())
    assert status == 503 and headers["Retry-After"] == "5"
    assert "No picture can be opened now (Too many open files)" in json.loads(said)["error"]
    monkeypatch.undo()
    assert asked(f"{address}api/embed", json.dumps(fields).encode())[0] == 200
