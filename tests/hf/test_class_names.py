"""A class that a model folder names must read pictures or texts; nothing else of transformers is called."""

import json

import pytest

from lit_jax.hf.class_names import is_image_processor, is_tokenizer
from lit_jax.hf.processor import load_image_processor, load_tokenizer
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import WeightError
from tests import tiny

OTHERS = [
    "AutoTokenizer",
    "AutoModel",
    "pipeline",
    "Trainer",
    "RagTokenizer",
    "BertJapaneseTokenizer",
    "models",
    "os",
]


@pytest.mark.parametrize("name", [*OTHERS, "__class__", "a.b", "", 3, ["BertTokenizer"]])
def test_names_of_other_classes_are_refused(name):
    assert not is_tokenizer(name) or not hasattr(transformers, name)
    assert not is_image_processor(name)


@pytest.mark.parametrize(
    "name",
    "BertTokenizer BertTokenizerFast RobertaTokenizer XLMRobertaTokenizer CLIPTokenizer SiglipTokenizer "
    "PreTrainedTokenizerFast DebertaV2Tokenizer AlbertTokenizerFast MPNetTokenizer SomethingOfTheirOwn".split(),
)
def test_names_of_fast_tokenizers_and_names_of_no_class_are_accepted(name):
    assert is_tokenizer(name)


def test_names_of_image_processors_are_accepted():
    for name in (
        "ViTImageProcessor",
        "CLIPImageProcessorFast",
        "ViTFeatureExtractor",
        "SwinImageProcessorPil",
        None,
    ):
        assert is_image_processor(name)


@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
@pytest.mark.parametrize("name", OTHERS[1:6])
def test_transformers_is_not_asked_for_a_class_that_is_not_a_tokenizer(file, name, tmp_path, monkeypatch):
    tiny.tokenizer().save_pretrained(tmp_path)
    path = tmp_path / file
    stored = json.loads(path.read_text()) if path.exists() else {"model_type": "bert"}
    path.write_text(json.dumps(stored | {"tokenizer_class": name}))
    monkeypatch.setattr(
        transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: pytest.fail("it was asked")
    )
    with pytest.raises(WeightError, match=rf"{file}: tokenizer_class='{name}' is not usable"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("file", ["preprocessor_config.json", "config.json"])
def test_transformers_is_not_asked_for_a_class_that_is_not_an_image_processor(file, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text("{}")
    (tmp_path / file).write_text(json.dumps({"image_processor_type": "AutoModel", "model_type": "vit"}))
    with pytest.raises(WeightError, match=rf"{file}: image_processor_type='AutoModel' is not usable"):
        load_image_processor(tmp_path)
