"""Layers that are locked one by one: twenty steps are those of PyTorch with the same parameters frozen."""

import re

import jax
import numpy as np
import pytest
import torch
from flax import traverse_util

import lit_jax
from lit_jax.config import OptimConfig
from lit_jax.hf.save import save
from lit_jax.parallel.sharding import put_batch
from lit_jax.train.optim import make_optimizer, make_schedule
from lit_jax.train.partition import combine, lock_rules
from lit_jax.train.state import init_state
from lit_jax.utils._transformers import transformers
from tests import tiny
from tests.steps import PIXELS, batch_of, make_step, mesh_of

STEPS, RATE = 20, 1e-3
SHALLOW = {"num_hidden_layers": 3, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
LOCKED = (
    ("(vision|text)/embeddings/.*", "lock"),
    ("vision/layers/(0|2)/.*", "lock"),
    ("text/layers/[01]/.*", "lock"),
)
FROZEN = (
    r"(vision|text)_model\.embeddings\..*|vision_model\..*layers?\.[02]\..*|text_model\..*layers?\.[01]\..*"
)
# The gradient of a key's bias is only rounding, which a small eps would turn into a step.
OPTIM = OptimConfig(
    peak_lr=RATE, schedule="constant", weight_decay=0.0, clip_norm=None, b1=0.9, b2=0.999, eps=1e-3
)
TX = make_optimizer(OPTIM, make_schedule(OPTIM, STEPS))


@pytest.fixture(scope="module")
def model():
    return tiny.dual(vision=tiny.VIT | SHALLOW, text=tiny.BERT | SHALLOW)


def trained_by_pytorch(folder):
    """The losses of the steps, and the model after them as it is read back from disk."""
    theirs = transformers.VisionTextDualEncoderModel.from_pretrained(folder).eval()
    for name, param in theirs.named_parameters():
        param.requires_grad = re.fullmatch(FROZEN, name) is None
    free = [param for param in theirs.parameters() if param.requires_grad]
    optimizer = torch.optim.AdamW(free, lr=RATE, betas=(0.9, 0.999), eps=1e-3, weight_decay=0.0)
    losses = []
    for step in range(STEPS):
        batch = batch_of(step)
        pixels = (batch["images"] / 255 - np.array(PIXELS.mean)) / np.array(PIXELS.std)
        pixels = torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32)
        texts = {name: torch.tensor(np.asarray(value)).long() for name, value in batch["texts"].items()}
        loss = theirs(**texts, pixel_values=pixels, return_loss=True).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    theirs.save_pretrained(folder / "after")
    return losses, transformers.VisionTextDualEncoderModel.from_pretrained(folder / "after")


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(1, 1), pytest.param((2, 4), marks=pytest.mark.slow)])
def test_twenty_steps_with_locked_layers_are_those_of_pytorch(mesh, model, tmp_path):
    module, params = model
    save(tmp_path, module, params)
    mesh = mesh_of(*mesh)
    step = make_step(module, mesh, TX, PIXELS, dropout=())
    state = init_state(params, lock_rules("UU", first=LOCKED), TX, mesh)
    losses = []
    for number in range(STEPS):
        state, row = step(state, put_batch(batch_of(number), mesh))
        losses.append(float(row["loss"]))
    wanted, theirs = trained_by_pytorch(tmp_path)
    np.testing.assert_allclose(losses, wanted, rtol=1e-5)
    ours = jax.device_get(combine(state.tuned, state.locked))
    theirs.save_pretrained(tmp_path / "again")
    after = jax.device_get(lit_jax.load(tmp_path / "again")[1])
    before = traverse_util.flatten_dict(params, sep="/")
    after = traverse_util.flatten_dict(after, sep="/")
    for path, value in traverse_util.flatten_dict(ours, sep="/").items():
        np.testing.assert_allclose(value, after[path], atol=1e-5, err_msg=path)
        if path.startswith("vision/layers/"):
            assert np.array_equal(value[[0, 2]], before[path][[0, 2]]), path
            assert not np.array_equal(value[1], before[path][1]), path


def test_the_optimiser_holds_no_moments_of_locked_layers(model):
    _, params = model
    mesh = mesh_of(1, 1)
    state = init_state(params, lock_rules("UU", first=LOCKED), TX, mesh)
    moments = [leaf for leaf in jax.tree.leaves(state.opt) if leaf.ndim]
    assert sum(leaf.size for leaf in moments) == 2 * sum(
        x.size for x in jax.tree.leaves(state.tuned) if x.ndim
    )
    kernels = {
        path: leaf.shape[0]
        for path, leaf in traverse_util.flatten_dict(state.tuned, sep="/").items()
        if path.endswith("attn/query/kernel")
    }
    assert kernels == {
        "vision/layers@1/attn/query/kernel": 1,
        "text/layers@2/attn/query/kernel": 1,
    }
