"""Short texts share the rows of the text tower, and every number stays what it was."""

import dataclasses
import logging

import jax
import numpy as np
import optax
import pytest

from lit_jax.config import DataConfig
from lit_jax.models.encoders import TEXT
from lit_jax.models.layers.packing import SOURCE, TARGET
from lit_jax.models.layers.spec import Compute
from lit_jax.parallel.sharding import put_batch
from lit_jax.train.packing import Packer, check_shares_rows
from lit_jax.train.partition import combine, lock_rules
from lit_jax.train.state import init_state
from lit_jax.utils.errors import ConfigError
from tests.steps import BATCH_SIZE, LENGTH, MODULE, PIXELS, batch_of, make_step, mesh_of, params_of_module

TX = optax.sgd(0.01)


def mask_of(lengths, length):
    return np.arange(length) < np.asarray(lengths)[:, None]


def test_a_batch_that_does_not_fit_is_reported_once(caplog):
    pack = Packer(texts=4, share=0.5)
    for lengths in ([3, 3, 1, 1], [4, 4, 4, 1], [4, 4, 4, 4]):
        with caplog.at_level(logging.WARNING):
            batch = pack({"texts": {"attention_mask": mask_of(lengths, 4).astype(np.int32)}})
        assert batch["texts"][SOURCE].shape == batch["texts"][TARGET].shape == (4, 4)
    assert caplog.text.count("do not fit into model.text_rows=0.5") == 1


def test_a_tower_that_cannot_keep_texts_apart_is_refused_by_name():
    refused = {name for name in TEXT if not TEXT[name].shares_rows}
    assert refused == set(
        """longformer clip_text_model metaclip_2_text_model coca_text siglip_text_model convbert roformer deberta
        deberta-v2 modernbert qwen2 qwen3 llama mistral eurobert gemma gemma2 gemma3_text mobileclip_text""".split()
    )
    check_shares_rows(1.0, "modernbert")
    with pytest.raises(
        ConfigError, match="rows, which the layers of a modernbert do not keep apart: set it to 1"
    ):
        check_shares_rows(0.5, "modernbert")


def short(step, captions=1):
    """A batch whose texts fill less than half of their rows."""
    batch = batch_of(step)
    if captions > 1:
        batch["texts"] = {name: np.stack([x, x[::-1]], axis=1) for name, x in batch["texts"].items()}
    lengths = np.random.default_rng(step).integers(2, 7, batch["texts"]["input_ids"].shape[:-1])
    batch["texts"]["attention_mask"] = (np.arange(LENGTH) < lengths[..., None]).astype(np.int32)
    return batch


def run(lock, mesh, batches, share=1.0, **options):
    """The loss and the gradient norm of each batch, and the params after them, without dropout."""
    module = dataclasses.replace(MODULE, compute=Compute(mesh=mesh, text_rows=share))
    state = init_state(params_of_module(), lock_rules(lock), TX, mesh)
    step = make_step(module, mesh, TX, pixels=PIXELS, dropout=(), **options)
    captions = options["data"].captions_per_image if "data" in options else 1
    pack = Packer((options.get("micro_batch") or BATCH_SIZE) // mesh.size * captions, share)
    rows = []
    for batch in batches:
        state, metrics = step(state, put_batch(batch if share == 1 else pack(batch), mesh))
        rows.append([float(metrics["loss"]), float(metrics["grad_norm"])])
    return np.array(rows), jax.device_get(combine(state.tuned, state.locked)), pack.warned


CASES = {
    "tuned, on two devices": ("LU", (2, 1), 0.625, {}),
    "tuned, over fsdp": ("UU", (2, 2), 0.75, {}),
    "in parts": ("LU", (2, 1), 0.75, {"micro_batch": 8}),
    "locked, in parts": ("UL", (2, 1), 0.75, {"micro_batch": 8}),
    "several captions": ("LU", (2, 1), 0.6, {"data": DataConfig("", captions_per_image=2)}),
}


@pytest.mark.parametrize(
    ("lock", "shape", "share", "options"),
    [
        pytest.param(*case, marks=[pytest.mark.slow] if number else [], id=name)
        for number, (name, case) in enumerate(CASES.items())
    ],
)
def test_losses_and_weights_are_those_of_texts_with_a_row_each(lock, shape, share, options):
    captions = options["data"].captions_per_image if "data" in options else 1
    batches = [short(step, captions) for step in range(3)]
    full = [batch_of(9)] if captions == 1 else []  # Does not fit, so each text gets a row of its own.
    mesh = mesh_of(*shape)
    want, params, _ = run(lock, mesh, batches + full, **options)
    got, same, warned = run(lock, mesh, batches + full, share, **options)
    assert warned == bool(full)
    np.testing.assert_allclose(got, want, rtol=1e-6)

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * float(np.abs(b).max()))

    jax.tree.map(close, same, params)
