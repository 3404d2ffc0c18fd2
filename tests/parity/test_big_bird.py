"""BigBird against PyTorch: up to which length its block-sparse attention is full, and its task models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from lit_jax.models.encoders import big_bird
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError, WeightError
from tests import tiny
from tests.parity.conftest import assert_same_layers
from tests.parity.towers import assert_rounding_alone, in_torch, our_tower, run, texts, torch_tower


@pytest.mark.parametrize(("random", "size", "most"), [(3, 64, 40), (1, 4, 28), (0, 2, 10)])
def test_block_sparse_attention_is_full_up_to_the_length_that_is_read(random, size, most, tmp_path):
    hf = tiny.BIG_BIRD | {"num_random_blocks": random, "block_size": size}
    theirs = torch_tower(hf, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    assert module.config.longest == most
    ids = np.random.default_rng(4).integers(6, 99, (2, most + 1)).astype(np.int32)
    mask = np.ones((2, most), np.int32)
    mask[0, most - 3 :] = 0
    batch = {"input_ids": ids[:, :most], "attention_mask": mask}
    want = theirs(**in_torch(batch))
    assert theirs.attention_type == "original_full"
    got = run(module, params, batch)
    assert_same_layers(
        {"last": got.last_hidden_state, "pooled": got.pooler_output},
        {"last": want.last_hidden_state, "pooled": want.pooler_output},
    )
    with pytest.raises(ConfigError, match=f"{most + 1} tokens; this tower has positions for {most}"):
        module.apply({"params": params}, jnp.asarray(ids))


def test_one_token_more_would_not_be_full_in_pytorch(tmp_path):
    theirs = torch_tower(tiny.BIG_BIRD | {"num_random_blocks": 1, "block_size": 4}, tmp_path)
    with torch.no_grad():
        theirs(torch.ones((1, 29), dtype=torch.long))
    assert theirs.attention_type == "block_sparse"


def test_checkpoints_of_task_models_are_read(tmp_path):
    transformers.set_seed(0)
    for kind in ("PreTraining", "QuestionAnswering"):  # With a pooler.
        add = {"add_pooling_layer": True} if kind == "QuestionAnswering" else {}
        task = getattr(transformers, f"BigBirdFor{kind}")(transformers.BigBirdConfig(**tiny.BIG_BIRD), **add)
        task.save_pretrained(tmp_path)
        params = our_tower("text", tmp_path)[2]
        np.testing.assert_array_equal(params["pooler"]["kernel"], task.bert.pooler.weight.detach().T)


@pytest.mark.slow
def test_remat_and_half_precision_change_nothing_but_rounding(tmp_path):
    torch_tower(tiny.BIG_BIRD, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    assert_rounding_alone(module, params, texts())


def test_in_training_dropout_comes_before_the_norm_of_the_embeddings(tmp_path):
    torch_tower(tiny.BIG_BIRD | {"num_hidden_layers": 1}, tmp_path)
    module, _, params = our_tower("text", tmp_path)
    norm = params["embeddings"]["norm"]
    options = {"train": True, "hidden_states": True, "rngs": {"dropout": jax.random.key(0)}}
    embedded = run(module, params, texts(), **options).hidden_states[0]
    plain = (np.asarray(embedded) - np.asarray(norm["bias"])) / np.asarray(norm["scale"])
    np.testing.assert_allclose(plain.mean(-1), 0, rtol=0, atol=1e-4)
    np.testing.assert_allclose(plain.std(-1), 1, rtol=0, atol=1e-4)
    still = run(module, params, texts(), hidden_states=True).hidden_states[0]
    assert np.abs(still - embedded).max() > 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_type": "sparse"}, "attention_type='sparse'.*block_sparse, original_full"),
        ({"block_size": 0}, "block_size=0"),
        ({"is_decoder": True}, "big_bird config: is_decoder=True"),
    ],
    ids=str,
)
def test_a_config_that_cannot_be_honoured_is_refused_by_name(change, message):
    with pytest.raises(WeightError, match=message):
        big_bird.Config.from_hf(tiny.BIG_BIRD | change)
