"""The checks that run on a GPU, each as a command: python -m tests.gpu_checks NAME. See test_gpu.py."""

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs.lit_b16_bert import get_config
from lit_jax.models.dual_encoder import DualEncoder, DualEncoderConfig, param_shapes
from lit_jax.models.layers.attention import Attention, use_cudnn
from lit_jax.models.layers.spec import BlockSpec, Compute
from lit_jax.train.loop import train
from lit_jax.train.trained import read_trained


def cudnn_equals_xla() -> str:
    """In bfloat16, cuDNN's attention and its gradients are within 2% of float32, or within twice the error of XLA."""
    said = []
    for tokens, masked, biased in (
        (197, False, False),
        (32, True, False),
        (64, True, True),
        (198, False, True),
    ):
        want = _attended("xla", jnp.float32, tokens, masked, biased)
        # One scale for all gradients, since some, such as that of key/bias, are 0 except for rounding.
        slope = max(float(jnp.abs(leaf).max()) for leaf in want[1:])
        apart = {
            how: max(
                float(jnp.abs(a - b).max()) / (slope if i else float(jnp.abs(b).max()))
                for i, (a, b) in enumerate(
                    zip(_attended(how, jnp.bfloat16, tokens, masked, biased), want, strict=True)
                )
            )
            for how in ("cudnn", "xla")
        }
        said.append(f"{tokens} tokens: cuDNN {apart['cudnn']:.1e}, XLA {apart['xla']:.1e}")
        assert apart["cudnn"] < max(2 * apart["xla"], 2e-2), said
    return "; ".join(said)


def _attended(how: Any, dtype: Any, tokens: int, masked: bool, biased: bool) -> list[Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, tokens, 256)).astype(np.float32)
    there = np.arange(tokens)[None] < np.array([tokens, tokens // 2, 2, 1])[:, None]
    mask = jnp.asarray(there[:, None, None]) if masked else None
    bias = jnp.asarray(rng.normal(size=(1, 4, tokens, tokens)), jnp.float32) if biased else None
    compute = Compute(dtype=dtype, attention=how)
    module = Attention(BlockSpec(4, 256, True), compute)
    assert use_cudnn(compute, x.shape, 4, masked or biased) == (how == "cudnn")
    params = jax.tree.map(lambda leaf: leaf * 5, module.init(jax.random.key(0), x)["params"])

    def loss(x: Any, params: Any) -> tuple[Any, Any]:
        y = module.apply({"params": params}, x.astype(dtype), mask, bias=bias)[0].astype(jnp.float32)
        return (y * jnp.sin(jnp.arange(y.size).reshape(y.shape))).sum(), y

    with jax.default_matmul_precision("highest"):
        grads, y = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(x, params)
    return [y, *jax.tree.leaves(grads)]


def _module(compute: Compute) -> DualEncoder:
    size = {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 1024}
    towers = {"vision_config": {"model_type": "vit", "image_size": 64, "patch_size": 8, **size}}
    towers["text_config"] = {"model_type": "bert", **size}
    return DualEncoder(
        DualEncoderConfig.from_hf({"model_type": "vision-text-dual-encoder", **towers}), compute
    )


def float32_is_float32() -> str:
    """The embeddings of the GPU equal those of the CPU, with all leaves randomised."""
    module, rng = _module(Compute()), np.random.default_rng(0)
    params = jax.tree.map(
        lambda s: rng.normal(size=s.shape, scale=0.05).astype(np.float32), param_shapes(module)
    )
    images = rng.normal(size=(8, 64, 64, 3)).astype(np.float32)
    ids = rng.integers(0, 1000, (8, 16), np.int32)
    found = {}
    for name in ("gpu", "cpu"):
        with jax.default_device(jax.devices(name)[0]):
            module = _module(Compute(attention="xla"))
            found[name] = jax.jit(module.apply)({"params": params}, images, {"input_ids": ids})[:2]
    apart = max(
        float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in zip(*found.values(), strict=True)
    )
    assert apart < 1e-5, apart
    return f"{apart:.1e} apart"


def _trained(folder: Path, steps: int, dtype: str) -> tuple[str, list[float]]:
    """A sha256 of the weights after `steps` steps of a recipe at its smoke size, and the losses on the way."""
    config = get_config("smoke")
    config.steps, config.log_every, config.model.dtype, config.eval_every = steps, 1, dtype, steps
    train(config, folder)
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(read_trained(folder).params):
        digest.update(np.ascontiguousarray(leaf).data)
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return digest.hexdigest()[:12], [row["loss"] for row in rows if "loss" in row]


def losses() -> str:
    """The losses of 20 steps in float32, on the platform that JAX_PLATFORMS names."""
    with tempfile.TemporaryDirectory() as folder:
        return json.dumps(_trained(Path(folder), 20, "float32")[1])


def bits() -> str:
    """A sha256 of the weights after 40 steps in bfloat16."""
    with tempfile.TemporaryDirectory() as folder:
        return _trained(Path(folder), 40, "bfloat16")[0]


if __name__ == "__main__":
    print(globals()[sys.argv[1]]())
