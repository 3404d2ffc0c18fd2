"""The commands with the folder of a CLIP or a SigLIP, which is read as a dual encoder."""

import json
import string

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from starlette.testclient import TestClient

from lit_jax.commands import classify, embed, evaluate, export, search
from lit_jax.inference.embedder import Embedder
from lit_jax.inference.index import Index
from lit_jax.tools.demo import app
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError
from tests import tiny
from tests.parity.conftest import randomise
from tests.parity.test_composites import TEXT, VISION

LABELS = ("a red square", "a blue circle")
END = 2 * 26 + 1


def clip(folder):
    """A model with the processor and tokenizer of CLIP: a crop, and texts that end at their end-of-text token."""
    letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    words = {word: i for i, word in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    processor = transformers.CLIPProcessor(
        transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        transformers.CLIPTokenizer(vocab=words, merges=[], model_max_length=40),
    )
    config = transformers.CLIPConfig(
        vision_config=VISION, text_config=TEXT | {"eos_token_id": END}, projection_dim=20
    )
    return _saved(folder, transformers.CLIPModel(config), processor)


def siglip(folder):
    """A model with a processor and tokenizer like those of SigLIP: no mask, and all texts of one length."""
    words = tiny.tokenizer().backend_tokenizer
    names = {"pad_token": "[PAD]", "eos_token": "[SEP]", "unk_token": "[UNK]"}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, model_max_length=40, model_input_names=["input_ids"], **names
    )
    processor = transformers.SiglipProcessor(
        transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer
    )
    config = transformers.SiglipConfig(vision_config=VISION, text_config=TEXT | {"projection_size": 32})
    return _saved(folder, transformers.SiglipModel(config), processor)


def _saved(folder, model, processor):
    randomise(model, 0).save_pretrained(folder)
    processor.save_pretrained(folder)
    return model.eval(), processor


MODELS = {"clip": clip, "siglip": siglip}


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS)
def whole(request, tmp_path_factory):
    """The folder of a model, the model in PyTorch, and its processor; `pairs` is beside the folder."""
    place = tmp_path_factory.mktemp("whole")
    tiny.write_pairs(place / "pairs", labels=True)
    return place / "model", *request.param(place / "model")


def run(command, *args):
    done = CliRunner().invoke(command.main, [*map(str, args)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.sampled(2)
def test_the_embeddings_are_those_of_pytorch_with_the_processor_of_the_folder(whole):
    folder, theirs, processor = whole
    embedder = Embedder(folder)
    pictures = sorted((folder.parent / "pairs").glob("*.png"))[:3]
    texts = [*LABELS, "the circle of blue on white"]
    images = [Image.open(path) for path in pictures]
    given = processor(images=images, text=texts, padding="max_length", max_length=40, return_tensors="pt")
    with torch.no_grad():
        want = theirs(**given)
    np.testing.assert_allclose(embedder.pictures(pictures), want.image_embeds, rtol=0, atol=1e-5)
    np.testing.assert_allclose(embedder.texts(texts), want.text_embeds, rtol=0, atol=1e-5)


@pytest.mark.sampled(2)
def test_a_whole_model_is_evaluated_and_classifies(whole):
    folder, _, _ = whole
    pairs = folder.parent / "pairs"
    result = folder.parent / "result.json"
    tasks = ("--tasks", "retrieval,zero_shot")
    run(evaluate, "--model", folder, "--data", f"folder:{pairs}", *tasks, "--json", result)
    assert json.loads(result.read_text())["metrics"].keys() == {"retrieval", "zero_shot"}
    assert "red" in run(classify, pairs / "000.png", "--model", folder, "--labels", ",".join(LABELS))


def test_pictures_that_a_whole_model_embedded_are_searched_and_shown(whole, tmp_path):
    folder, _, _ = whole
    index = tmp_path / "index"
    run(embed, f"folder:{folder.parent / 'pairs'}", "--model", folder, "--output", index)
    assert "cosine" in run(search, index, "--query", LABELS[0])
    page = TestClient(app.make_app(Embedder(folder), Index.open(index)), "http://127.0.0.1")
    assert page.get("/").status_code == 200


@pytest.mark.sampled(2)
def test_a_whole_model_is_exported_and_compared_with_pytorch(whole, tmp_path):
    folder, theirs, _ = whole
    data = ("--verify", "--verify-data", f"folder:{folder.parent / 'pairs'}")
    assert "logits_per_image" in run(export, "--model", folder, "--output", tmp_path / "again", *data)
    again = type(theirs).from_pretrained(tmp_path / "again").state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in theirs.state_dict().items())
    np.testing.assert_array_equal(Embedder(tmp_path / "again").texts(LABELS), Embedder(folder).texts(LABELS))
    layout = "dual_encoder" if isinstance(theirs, transformers.CLIPModel) else "lit_jax"
    for name in (layout, "sentence_transformers"):
        run(export, "--model", folder, "--output", tmp_path / name, "--layout", name)
        np.testing.assert_array_equal(Embedder(tmp_path / name).texts(LABELS), Embedder(folder).texts(LABELS))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--workdir", "run"), "--workdir is a run and --model a model; give one of them"),
        (("--step", "3"), "give --workdir, or leave them out"),
        (("--license", "mit"), "give --workdir, or leave them out"),
        (("--verify",), "give --verify-data SOURCE"),
    ],
)
def test_options_that_belong_to_a_run_are_refused_with_a_model(more, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        run(export, "--model", tmp_path, "--output", tmp_path / "out", *more)
