"""JAX's operations become ONNX's with the same meaning, as ONNX's own reference computes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lit_jax.hf import programs
from lit_jax.hf.programs import onnx_files, towers
from lit_jax.hf.programs.onnx_trace import traced
from lit_jax.hf.programs.towers import Program
from lit_jax.utils.errors import WeightError
from tests import tiny

onnx = pytest.importorskip("onnx", reason="ONNX files are written with lit_jax[onnx]")


def computed(program, inputs):
    """What ONNX's reference gives for a program."""
    from onnx.reference import ReferenceEvaluator

    model = onnx_files.model_of(program)
    onnx.checker.check_model(model, full_check=True)
    wide = {k: v.astype(np.int64) if v.dtype == np.int32 else v for k, v in inputs.items()}
    (found,) = ReferenceEvaluator(model).run(None, wide)
    return found


def program_of(function, *shape):
    """A program with one float32 input, whose sizes can be symbols."""
    names = [size for size in shape if isinstance(size, str)]
    symbols = dict(zip(names, jax.export.symbolic_shape(", ".join(names)), strict=True)) if names else {}
    spec = jax.ShapeDtypeStruct(tuple(symbols.get(size, size) for size in shape), jnp.float32)
    return Program("vision", {"x": spec}, {}, lambda params, inputs: function(inputs["x"]))


TABLE = np.random.default_rng(1).normal(size=(7, 5)).astype(np.float32)
FUNCTIONS = {
    "argmax of bools": lambda x: (x > 0).argmax(axis=1).astype(jnp.float32),
    "batched product": lambda x: jnp.einsum("bnd,bmd->bnm", x, x),
    "causal mask": lambda x: jnp.where(
        jnp.tril(jnp.ones((x.shape[1],) * 2, bool))[None, :, :, None], x[:, None], 0
    ),
    "choice between bools": lambda x: jnp.where(x[:, :1] > 0, x > 0, x < 0.5).astype(jnp.float32),
    "comparisons": lambda x: ((x > 0) & (x <= 1) | (x != x[:, :1])).astype(jnp.float32),
    "convolution": lambda x: lax.conv_general_dilated(
        x, TABLE[None].repeat(3, 0)[:, :5], (2,), [(1, 2)], dimension_numbers=("NWC", "WIO", "NWC")
    ),
    "cumulative sum": lambda x: jnp.cumsum(x, axis=1),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False) + jax.nn.gelu(x, approximate=True),
    "integer powers": lambda x: x**3 + 1 / (1 + x**2),
    "loop with outputs": lambda x: jnp.concatenate(
        lax.scan(lambda c, row: (c + row, c * row), x, jnp.asarray(TABLE))[1], axis=0
    ),
    "numbers of tokens": lambda x: x * x.shape[1] + jnp.arange(x.shape[1] * 2 - 1).sum(),
    "one row of each": lambda x: jnp.take_along_axis(x, (x > 0).argmax(axis=1)[:, None], axis=1),
    "padding": lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 0)), constant_values=3),
    "places of two axes": lambda x: x[jnp.arange(x.shape[0]), (x[..., 0] > 0).argmax(axis=1)],
    "rows of a table": lambda x: jnp.asarray(TABLE)[(x > 0).astype(jnp.int32).sum(axis=1)],
    "softmax": lambda x: jax.nn.softmax(x, axis=1),
    "square of a size": lambda x: (x[:, :, None] * x[:, None])[..., 0].reshape(x.shape[0], -1)[
        :, : x.shape[1] ** 2 - 1
    ],
    "stacked and taken apart": lambda x: jnp.stack(jnp.unstack(x, axis=2)[::-1], axis=1),
    "steps backwards": lambda x: x[:, ::-1, 1::2],
    "windows": lambda x: x[:, :1] + x[:, -1:] * x[:, 1, None],
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_function_gives_the_same_in_onnx(function):
    x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    found = computed(program_of(function, "batch", "length", 5), {"x": x})
    with jax.disable_jit():
        want = function(jnp.asarray(x))
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)


def test_what_depends_only_on_constants_is_computed_in_advance():
    graph, output = traced(
        lambda params, inputs: inputs["x"] @ (params["w"].T * 2 + 1),
        {"w": TABLE},
        {"x": jax.ShapeDtypeStruct((2, 5), jnp.float32)},
    )
    (node,) = graph.needed(output.array)
    assert node.kind == "MatMul"
    np.testing.assert_array_equal(graph.constants[node.inputs[1]], TABLE.T * 2 + 1)


def test_an_operation_without_a_rule_is_named():
    with pytest.raises(WeightError, match=r"vision tower has no ONNX form: .*'sort'; export without --onnx"):
        onnx_files.model_of(program_of(jnp.sort, 3))


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "changes", [{}, {"vision": tiny.DINOV2, "text": tiny.CLIP_TEXT}], ids=["vit+bert", "dinov2+clip"]
)
def test_both_towers_give_the_same_at_sizes_other_than_the_traced_ones(changes):
    module, params = tiny.dual(**changes)
    for program in towers.programs(module, params, with_mask=True, compute=onnx_files.COMPUTE):
        inputs = program.example(batch=3, length=11)
        want = jax.jit(program.call)(program.params, inputs)
        np.testing.assert_allclose(computed(program, inputs), want, rtol=0, atol=1e-5)
        kinds = {node.op_type for node in onnx_files.model_of(program).graph.node}
        assert "LayerNormalization" in kinds and "Softmax" in kinds


def test_pictures_have_the_size_of_the_processor_and_not_of_the_tower(monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(programs, "check", lambda forms: None)
    monkeypatch.setattr(onnx_files, "write", lambda folder, each, *, int8: made.extend(each))
    programs.write(tmp_path, *tiny.dual(vision=tiny.DINOV2), tiny.processor(32), ["onnx"])
    assert made[0].inputs["pixel_values"].shape[1:] == (3, 32, 32) and tiny.DINOV2["image_size"] == 56
    call, params = jax.jit(made[0].call), made[0].params
    assert call(params, made[0].example()).shape == (2, 16)
