"""Folders of text embedding models that sentence-transformers wrote give its own vectors, to 1e-5.

This needs sentence-transformers besides the extras of the tests: pip install sentence-transformers.
"""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import lit_jax
from lit_jax.config import ModelConfig
from lit_jax.data.transforms.tokenizer import set_prompt
from lit_jax.hf.join import join_towers
from lit_jax.hf.processor import join_processors
from lit_jax.inference.embedder import Opened
from lit_jax.utils._transformers import transformers
from tests import tiny
from tests.parity.conftest import randomise
from tests.parity.towers import torch_tower

reason = "compares with sentence-transformers; pip install sentence-transformers"
st = pytest.importorskip("sentence_transformers", reason=reason)
st_models = pytest.importorskip("sentence_transformers.models", reason=reason)

TEXTS = [
    "a red square",
    "blue",
    "the green circle of the red square on white " * 2,
    "a blue circle on a white square",
    "",
]


def tokenizer(template, side, **special):
    """A tokenizer of the words of `tiny` that writes `template` around a text and pads on `side`."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(tiny.WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    numbers = [("[CLS]", 2), ("[SEP]", 3)]
    words.post_processor = processors.TemplateProcessing(single=template, special_tokens=numbers)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        model_max_length=40,
        padding_side=side,
        pad_token="[PAD]",
        unk_token="[UNK]",
        **special,
    )


def write(folder, hf, words, pooling, dense=(), prompts=None, seed=3):
    """Writes a folder as sentence-transformers does, with every leaf randomised; returns its model."""
    torch_tower(hf, folder / "tower", seed)
    words.save_pretrained(folder / "tower")
    tower = st_models.Transformer(str(folder / "tower"), max_seq_length=40)
    width = tower.get_embedding_dimension()
    modules = [tower, st_models.Pooling(width, pooling_mode=pooling)]
    for out in dense:
        layer = st_models.Dense(width, out, bias=False, activation_function=torch.nn.Identity())
        modules.append(randomise(layer, seed + out))
        width = out
    model = st.SentenceTransformer(modules=[*modules, st_models.Normalize()], prompts=prompts, device="cpu")
    model.save_pretrained(str(folder / "model"))
    return st.SentenceTransformer(str(folder / "model"), device="cpu").eval()


def ours(folder, pooling, prompt, kernel=None, width=None):
    """What lit_jax makes of the folder, with a pooling, a prompt and a matrix."""
    tiny.write_towers(folder, vision=tiny.VIT)
    model = ModelConfig(
        str(folder / "v"),
        str(folder / "model"),
        text_pooling=pooling,
        text_head="identity" if kernel is None else "linear",
        projection_dim=width,
    )
    loaded = join_towers(model)
    params = dict(loaded.params)
    if kernel is not None:
        params["text_projection"] = {"kernel": kernel}
    processor = join_processors(folder / "v", folder / "model")
    if prompt:
        set_prompt(processor.tokenizer, prompt)
    return lit_jax.Embedder(Opened("ours", loaded.module, params, processor))


def compare(model, embedder, prompt):
    want = model.encode(TEXTS, prompt=prompt, normalize_embeddings=True, batch_size=len(TEXTS))
    got = embedder.texts(TEXTS)
    assert np.abs(want[0] - want[1]).max() > 1e-2
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    one = np.concatenate([embedder.texts([text]) for text in TEXTS])  # The padding does not matter.
    np.testing.assert_allclose(one, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("prompt", ["", "the white on : "])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_folder_like_that_of_qwen3_embedding_gives_the_same_vectors(side, prompt, tmp_path):
    words = tokenizer("$A [SEP]", side, eos_token="[SEP]")
    model = write(tmp_path, tiny.QWEN3, words, "lasttoken", prompts={"query": prompt})
    compare(model, ours(tmp_path, "last", prompt, width=24), prompt)


def product(model):
    """The matrix of Dense layers without bias or activation: what a linear head holds."""
    layers = [module for module in model if hasattr(module, "linear")]
    assert all(layer.linear.bias is None for layer in layers)
    matrix = np.eye(layers[0].linear.in_features)
    for layer in layers:
        matrix = matrix @ layer.linear.weight.detach().numpy().T.astype(np.float64)
    return matrix.astype(np.float32)


@pytest.mark.parametrize("prompt", ["", "the circle : ", "a square of on white | the : "])
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_folder_like_that_of_embeddinggemma_gives_the_same_vectors(side, prompt, tmp_path):
    words = tokenizer("[CLS] $A [SEP]", side, bos_token="[CLS]", eos_token="[SEP]")
    model = write(tmp_path, tiny.GEMMA3_TEXT, words, "mean", dense=(64, 16), prompts={"query": prompt})
    compare(model, ours(tmp_path, "mean", prompt, product(model), 16), prompt)


@pytest.mark.parametrize(
    ("hf", "theirs", "pooling"),
    [
        (tiny.BERT, "mean", "mean"),  # e5, gte, all-MiniLM
        (tiny.BERT, "cls", "cls"),  # bge, arctic
        (tiny.XLM_ROBERTA, "mean", "mean"),
        (tiny.MODERNBERT, "cls", "cls"),
        (tiny.MPNET, "mean", "mean"),
        (tiny.DISTILBERT, "max", "max"),
        (tiny.LLAMA, "lasttoken", "last"),
        (tiny.MISTRAL, "lasttoken", "last"),  # e5-mistral, SFR-Embedding, Linq-Embed
        (tiny.QWEN2, "lasttoken", "last"),  # gte-Qwen2
        (tiny.QWEN2, "mean", "mean"),  # KaLM
        (tiny.GEMMA2, "lasttoken", "last"),  # bge-multilingual-gemma2
    ],
    ids=lambda value: value if isinstance(value, str) else value["model_type"],
)
def test_folders_of_other_types_and_poolings_give_the_same_vectors(hf, theirs, pooling, tmp_path):
    words = tokenizer("[CLS] $A [SEP]", "right", cls_token="[CLS]", sep_token="[SEP]")
    model = write(tmp_path, hf, words, theirs)
    compare(model, ours(tmp_path, pooling, "the : ", width=24), "the : ")


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_folder_with_the_encoder_of_nllb_or_sonar_gives_the_same_vectors(pooling, tmp_path):
    words = tokenizer("[CLS] $A [SEP]", "right", cls_token="[CLS]", eos_token="[SEP]")
    model = write(tmp_path, tiny.M2M_100 | {"pad_token_id": 0}, words, pooling, prompts={"query": "the "})
    compare(model, ours(tmp_path, pooling, "the ", width=24), "the ")


def test_a_folder_like_that_of_sentence_t5_gives_the_same_vectors(tmp_path):
    words = tokenizer("$A [SEP]", "right", eos_token="[SEP]")
    model = write(tmp_path, tiny.T5, words, "mean", dense=(16,))
    compare(model, ours(tmp_path, "mean", "", product(model), 16), "")
