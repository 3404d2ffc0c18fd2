"""A text that shares its row is embedded as if it were alone, by every type that allows it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from lit_jax.data.packing import place
from lit_jax.models.dual_encoder import DualEncoder, init_params
from lit_jax.models.encoders import TEXT
from lit_jax.models.layers.packing import SOURCE, TARGET, rows_for
from lit_jax.models.layers.spec import Compute
from lit_jax.utils.errors import ConfigError
from tests import tiny

LENGTHS, LENGTH, SHARE = [16, 9, 7, 3, 5, 2], 16, 0.5
TOWERS = {name: hf for name, hf in tiny.TOWERS.items() if name in TEXT}


def texts_of(hf):
    mask = np.arange(LENGTH) < np.array(LENGTHS)[:, None]
    ids = np.random.default_rng(0).integers(5, 40, mask.shape).astype(np.int32)
    texts = {
        "input_ids": np.where(mask, ids, hf.get("pad_token_id") or 0),
        "attention_mask": mask.astype(np.int32),
    }
    source, target = place(mask, rows_for(len(LENGTHS), SHARE))
    assert ((target >= 0) == mask).all()
    return texts, texts | {SOURCE: source, TARGET: target}


def pooled_and_gradient(hf, texts):
    module = DualEncoder(tiny.dual_config(tiny.VIT, hf), Compute(text_rows=SHARE))
    params, texts = tiny.randomised(init_params(module, 0)), jax.tree.map(jnp.asarray, texts)

    @jax.jit
    def both(text):
        def pooled(text):
            return module.apply({"params": params | {"text": text}}, texts, method="pool_texts")

        value, back = jax.vjp(pooled, text)
        return value, back(jnp.cos(jnp.arange(value.size, dtype=jnp.float32)).reshape(value.shape))[0]

    return both(params["text"])


def test_every_type_has_a_small_tower_here():
    assert set(TOWERS) == set(TEXT)


@pytest.mark.sampled(28)
@pytest.mark.parametrize("name", [name for name in sorted(TOWERS) if TEXT[name].shares_rows])
def test_embeddings_and_gradients_equal_those_of_one_text_per_row(name):
    plain, packed = texts_of(TOWERS[name])
    (want, gradient), (got, same) = (pooled_and_gradient(TOWERS[name], texts) for texts in (plain, packed))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * float(jnp.abs(want).max()))

    wanted, largest = (
        traverse_util.flatten_dict(gradient, sep="/"),
        max(float(jnp.abs(x).max()) for x in jax.tree.leaves(gradient)),
    )
    for path, leaf in traverse_util.flatten_dict(same, sep="/").items():
        # The gradient of a key's bias is zero except for rounding, part of which enters what several layers share.
        own = max(float(jnp.abs(wanted[path]).max()), largest / 1000)
        scale = largest if path.endswith("key/bias") else own
        np.testing.assert_allclose(leaf, wanted[path], rtol=0, atol=5e-6 * scale, err_msg=path)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "name", ["modernbert", "qwen3", "clip_text_model", "longformer", "deberta", "deberta-v2"]
)
def test_a_tower_with_masks_of_its_own_is_refused(name):
    with pytest.raises(ConfigError, match="share rows"):
        pooled_and_gradient(TOWERS[name], texts_of(TOWERS[name])[1])
