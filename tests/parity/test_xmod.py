"""X-MOD's adapters: those of one language are read, and a config that names none is refused."""

import numpy as np
import pytest

import lit_jax
from lit_jax.models.encoders import xmod
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import WeightError
from tests import tiny
from tests.parity.conftest import assert_same_layers
from tests.parity.towers import in_torch, our_tower, run, texts, torch_tower


@pytest.mark.parametrize("language", ["en_XX", "de_DE"])
def test_the_adapters_are_those_of_the_language_that_the_config_names(language, tmp_path):
    hf = tiny.XMOD | {"default_language": language}
    theirs = torch_tower(hf, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    assert module.config.languages == (module.config.default_language,) == (language,)
    adapter = theirs.encoder.layer[2].output.adapter_modules[language].dense1.weight
    np.testing.assert_array_equal(params["layers"]["adapter"]["up"]["kernel"][2], adapter.detach().T)


def test_a_saved_tower_has_its_language_alone_and_computes_the_same_in_transformers(tmp_path):
    theirs = torch_tower(tiny.XMOD, tmp_path / "t")
    tiny.write_tower(tmp_path / "v", tiny.VIT)
    module, params = lit_jax.from_towers(tmp_path / "v", tmp_path / "t", projection_dim=16)
    lit_jax.save(tmp_path / "out", module, params, layout="towers")
    back, told = transformers.AutoModel.from_pretrained(
        tmp_path / "out/text", attn_implementation="eager", output_loading_info=True
    )
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), told
    assert back.config.languages == ["de_DE"] and back.config.default_language == "de_DE"
    want, got = (model.eval()(**in_torch(texts())).pooler_output.detach() for model in (theirs, back))
    np.testing.assert_array_equal(got, want)


def test_another_language_can_be_chosen_when_a_folder_is_read(tmp_path):
    theirs = torch_tower(tiny.XMOD | {"default_language": None}, tmp_path)
    with pytest.raises(WeightError, match=r"default_language is missing.*config\.json: de_DE, en_XX"):
        our_tower("text", tmp_path)
    theirs.set_default_language("en_XX")
    theirs.config.save_pretrained(tmp_path)
    module, _, params = our_tower("text", tmp_path)
    want = theirs(**in_torch(texts()))
    got = run(module, params, texts())
    assert_same_layers({"pooled": got.pooler_output}, {"pooled": want.pooler_output})


def test_checkpoints_of_task_models_are_read(tmp_path):
    transformers.set_seed(0)
    tiny.write_tower(tmp_path / "v", tiny.VIT)
    for kind in ("MaskedLM", "SequenceClassification", "QuestionAnswering"):
        task = getattr(transformers, f"XmodFor{kind}")(transformers.XmodConfig(**tiny.XMOD))
        task.save_pretrained(tmp_path / kind)
        want = task.roberta.encoder.layer[1].output.adapter_modules["de_DE"].dense2.weight.detach().T
        params = lit_jax.from_towers(tmp_path / "v", tmp_path / kind)[1]["text"]
        np.testing.assert_array_equal(params["layers"]["adapter"]["down"]["kernel"][1], want)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"default_language": "fr_XX"}, "default_language='fr_XX'.*de_DE, en_XX"),
        ({"languages": ["a|b"], "default_language": None}, "default_language='a|b' is not usable"),
        ({"languages": [3], "default_language": 3}, "default_language=3"),
        ({"adapter_reduction_factor": 99}, "adapter_reduction_factor=99.*hidden_size=24"),
        ({"is_decoder": True}, "is_decoder=True"),
    ],
    ids=str,
)
def test_a_config_that_cannot_be_honoured_is_refused_by_name(change, message):
    with pytest.raises(WeightError, match=message):
        xmod.Config.from_hf(tiny.XMOD | change)


def test_a_config_of_one_language_needs_no_default():
    assert xmod.Config.from_hf({"model_type": "xmod", "languages": ["de_DE"]}).default_language == "de_DE"
