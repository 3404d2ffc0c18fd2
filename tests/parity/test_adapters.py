"""Adapters of both towers: twenty steps equal those of PyTorch, by hand and by peft, from the same initial adapters."""

import re

import jax
import numpy as np
import pytest
import torch
from flax import traverse_util

import lit_jax
from lit_jax.config import ModelConfig, OptimConfig
from lit_jax.hf.save import save
from lit_jax.parallel.sharding import put_batch
from lit_jax.train.adapters import with_adapters
from lit_jax.train.build import locks_of
from lit_jax.train.optim import make_optimizer, make_schedule
from lit_jax.train.state import init_state
from lit_jax.utils._transformers import transformers
from tests import tiny
from tests.steps import PIXELS, batch_of, make_step, mesh_of

STEPS, RATE, RANK, ALPHA = 20, 1e-2, 4, 6
PLAIN = {"num_hidden_layers": 2, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
CONFIG = ModelConfig("", "", lock_towers="AA", lora_rank=RANK, lora_alpha=ALPHA)
OPTIM = OptimConfig(peak_lr=RATE, schedule="constant", weight_decay=0.0, clip_norm=None, eps=1e-3)
TX = make_optimizer(OPTIM, make_schedule(OPTIM, STEPS))
HEADS = "visual_projection.weight", "text_projection.weight", "logit_scale"


class Adapted(torch.nn.Module):
    """A linear layer with an adapter, as in the paper."""

    def __init__(self, base, a, b):
        super().__init__()
        self.base, self.a, self.b = base, torch.nn.Parameter(a), torch.nn.Parameter(b)

    def forward(self, x):
        return self.base(x) + ALPHA / RANK * (x @ self.a.T @ self.b.T)


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """The folder of the model, its params with adapters, and losses and state after the steps."""
    folder = tmp_path_factory.mktemp("adapters")
    module, params = tiny.dual(vision=tiny.VIT | PLAIN, text=tiny.BERT | PLAIN)
    save(folder / "before", module, params)
    params = with_adapters(params, CONFIG)
    mesh = mesh_of(1, 1)
    step = make_step(module, mesh, TX, PIXELS, dropout=())
    state = init_state(params, locks_of(CONFIG), TX, mesh)
    losses = []
    for number in range(STEPS):
        state, row = step(state, put_batch(batch_of(number), mesh))
        losses.append(float(row["loss"]))
    return folder, module, params, losses, jax.device_get(state)


def targets(theirs):
    """Yields (name of the module, tower, query or value, layer) for every target in PyTorch."""
    for name, _ in theirs.named_modules():
        if found := re.fullmatch(
            r"(vision|text)_model\..*\blayers?\.(\d+)\..*\b(query|value|q_proj|v_proj)", name
        ):
            kind = {"q": "query", "v": "value"}[found[3][0]]
            yield name, found[1], kind, int(found[2])


def pair(tree, tower, kind, layer):
    """The a and b of a layer, laid out like PyTorch's weights."""
    adapters = tree[tower]["adapters"]["layers"]["attn"][kind]
    return [torch.tensor(np.asarray(adapters[side]["kernel"][layer]).T.copy()) for side in "ab"]


def trained(theirs):
    """The losses of the same steps in PyTorch."""
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
    return losses


def compare(state, modules):
    """Compares the adapters of the state with those of PyTorch's `modules` (target -> its a and b)."""
    assert len(modules) == 8  # Two towers, two layers, two kernels.
    for (tower, kind, layer), weights in modules.items():
        for mine, its in zip(pair(state.tuned, tower, kind, layer), weights, strict=True):
            np.testing.assert_allclose(mine, its.detach(), atol=1e-5, err_msg=f"{tower} {kind} {layer}")
            assert float(mine.abs().max()) > 1e-2


@pytest.mark.slow
def test_twenty_steps_of_adapters_are_those_of_pytorch(ours):
    folder, _, params, losses, state = ours
    theirs = transformers.VisionTextDualEncoderModel.from_pretrained(folder / "before").eval()
    for name, param in theirs.named_parameters():
        param.requires_grad = name in HEADS
    adapted = {}
    for name, *which in list(targets(theirs)):
        module = Adapted(theirs.get_submodule(name), *pair(params, *which))
        parent, _, last = name.rpartition(".")
        setattr(theirs.get_submodule(parent), last, module)
        adapted[tuple(which)] = module
    np.testing.assert_allclose(losses, trained(theirs), rtol=1e-5)
    compare(state, {which: (module.a, module.b) for which, module in adapted.items()})
    for mine, name in zip(
        (state.tuned[n] for n in ("visual_projection", "text_projection")), HEADS, strict=False
    ):
        np.testing.assert_allclose(mine["kernel"].T, theirs.get_parameter(name).detach(), atol=1e-5)
    np.testing.assert_allclose(state.tuned["logit_scale"], theirs.logit_scale.detach(), atol=1e-5)
    before = traverse_util.flatten_dict(params, sep="/")
    for path, leaf in traverse_util.flatten_dict(state.locked, sep="/").items():
        assert np.array_equal(leaf, before[path]), path


@pytest.mark.slow
def test_the_merged_model_equals_the_one_with_adapters(ours, tmp_path):
    """PyTorch computes both: one with the adapters of the state beside the layers, one from the merged weights."""
    folder, module, _, _, state = ours
    save(tmp_path / "after", module, jax.tree.map(np.asarray, state.evaluated))
    merged = transformers.VisionTextDualEncoderModel.from_pretrained(tmp_path / "after").eval()
    beside = transformers.VisionTextDualEncoderModel.from_pretrained(tmp_path / "after").eval()
    plain = transformers.VisionTextDualEncoderModel.from_pretrained(folder / "before").eval()
    for name, *which in list(targets(plain)):
        parent, _, last = name.rpartition(".")
        layer = Adapted(plain.get_submodule(name), *pair(state.tuned, *which))
        setattr(beside.get_submodule(parent), last, layer)
    batch = batch_of(0)
    texts = {name: torch.tensor(np.asarray(value)).long() for name, value in batch["texts"].items()}
    pixels = torch.tensor(batch["images"].transpose(0, 3, 1, 2) / 255, dtype=torch.float32)
    with torch.no_grad():
        a, b, c = (each(**texts, pixel_values=pixels) for each in (merged, beside, plain))
    for name in ("image_embeds", "text_embeds"):
        np.testing.assert_allclose(a[name], b[name], atol=1e-6)
        assert np.abs(np.asarray(a[name]) - np.asarray(c[name])).max() > 1e-3


@pytest.mark.slow
def test_twenty_steps_of_adapters_are_those_of_peft(ours, tmp_path):
    peft = pytest.importorskip("peft", reason="the reference of adapters")
    folder, _, params, losses, state = ours
    theirs = transformers.VisionTextDualEncoderModel.from_pretrained(folder / "before").eval()
    names = {name: tuple(which) for name, *which in targets(theirs)}
    lora = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=[*names])
    model = peft.get_peft_model(theirs, lora).eval()
    layers = {which: model.base_model.model.get_submodule(name) for name, which in names.items()}
    weights = {}
    for which, layer in layers.items():
        weights[which] = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        a, b = pair(params, *which)
        bound = a.shape[1] ** -0.5  # The bound of its own initial a.
        assert weights[which][0].abs().max() <= bound and a.abs().max() <= bound
        assert not weights[which][1].any() and not b.any()
        weights[which][0].data.copy_(a)
    for name, param in theirs.named_parameters():
        if name in HEADS:
            param.requires_grad = True
    np.testing.assert_allclose(losses, trained(theirs), rtol=1e-5)
    compare(state, weights)
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    after = traverse_util.flatten_dict(jax.device_get(lit_jax.load(tmp_path / "merged")[1]), sep="/")
    for path, leaf in traverse_util.flatten_dict(state.evaluated, sep="/").items():
        np.testing.assert_allclose(leaf, after[path], atol=1e-5, err_msg=path)
