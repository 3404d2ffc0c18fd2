"""BertGeneration's encoder: what its checkpoints hold besides, and its way back to transformers."""

import numpy as np
import pytest

from lit_jax.models.encoders import bert_generation
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import WeightError
from tests import tiny
from tests.parity.towers import assert_a_folder_goes_back, assert_pools, our_tower, texts, torch_tower


def test_a_tower_keeps_every_bit_on_its_way_back_to_transformers(tmp_path):
    assert_a_folder_goes_back(tiny.BERT_GENERATION, tmp_path)


@pytest.mark.parametrize("pooling", ["cls", "mean", "tanh"])
def test_a_tower_pools_its_first_token_or_its_real_tokens(pooling, tmp_path):
    torch_tower(tiny.BERT_GENERATION, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    assert_pools(bert_generation.ENCODER, module, params, pooling, texts())


def test_the_tower_of_a_decoder_is_read_and_a_config_that_makes_it_one_is_refused(tmp_path):
    transformers.set_seed(0)
    config = transformers.BertGenerationConfig(**tiny.BERT_GENERATION, is_decoder=True)
    decoder = transformers.BertGenerationDecoder(config)
    decoder.save_pretrained(tmp_path)
    with pytest.raises(WeightError, match="bert-generation config: is_decoder=True"):
        our_tower("text", tmp_path)
    decoder.config.is_decoder = False
    decoder.config.save_pretrained(tmp_path)
    want = decoder.bert.encoder.layer[1].output.dense.weight.detach().T
    got = our_tower("text", tmp_path)[2]["layers"]["mlp"]["down"]["kernel"][1]
    np.testing.assert_array_equal(got, want)


def test_token_types_of_an_old_config_mean_nothing():
    assert bert_generation.Config.from_hf({"type_vocab_size": 2}) == bert_generation.Config()
