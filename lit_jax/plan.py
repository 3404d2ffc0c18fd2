"""What a recipe costs on TPUs that are not there: its real train step, compiled ahead of time, and counted.

libtpu compiles for any slice on any machine. Nothing of the model is read or computed: towers are given by their
configs, weights and batches by their shapes.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding

from lit_jax import dual_encoder, optim, pretrained, run
from lit_jax.accumulate import check_micro_batch
from lit_jax.dual_encoder import DualEncoder, DualEncoderConfig
from lit_jax.errors import ConfigError
from lit_jax.flops import flops_of
from lit_jax.hlo import Program
from lit_jax.processing import Pixels
from lit_jax.recipe import Recipe, read
from lit_jax.sharding import BATCH, check_batch, make_mesh, spec
from lit_jax.train_step import abstract_state, make_train_step

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU generation, as its makers state it."""

    hbm: int  # Bytes.
    flops: float  # A second, bfloat16.
    bandwidth: float  # Bytes of HBM a second.
    links: float  # Bytes a second between chips of a slice.


CHIPS = {
    "v4": Chip(32 * GIB, 275e12, 1228e9, 300e9),
    "v5e": Chip(16 * GIB, 197e12, 819e9, 200e9),
    "v5p": Chip(95 * GIB, 459e12, 2765e9, 600e9),
    "v6e": Chip(32 * GIB, 918e12, 1640e9, 448e9),
}
NEEDLESS = frozenset({"data.train", "model.vision", "model.text"})  # For a plan.
FITS = 0.95  # Of the HBM; the rest is the runtime's own.


def plan(config: Any, topology: str = "", *, slices: int = 1) -> dict[str, Any]:
    """Compiles the train step of `config` for a slice such as "v5e:2x4" and says what it costs a chip and a step.

    Bytes, floating-point operations and seconds. Raises ConfigError if the slice is unknown, libtpu is not installed,
    or the recipe does not go with it.
    """
    recipe = read(config, empty=NEEDLESS)
    topology = topology or recipe.topology
    chip = _chip(topology)
    mesh = make_mesh(recipe.mesh.data, recipe.mesh.fsdp, _devices(topology, slices))
    check_batch(recipe.batch_size, mesh)
    if recipe.micro_batch:
        check_micro_batch(recipe.micro_batch, recipe.batch_size, mesh)
    run.check_attention(recipe.model.attention, "tpu")
    compute = dataclasses.replace(run.compute_of(recipe.model, "tpu"), mesh=mesh)
    module = DualEncoder(config_of(recipe), compute)
    shapes = dual_encoder.param_shapes(module)
    rules = run.rules_of(recipe, shapes, ())
    _, tx = run.optimiser_of(recipe)
    state = abstract_state(shapes, rules, tx, mesh, run.DTYPES[recipe.model.locked_dtype])
    step: Any = make_train_step(
        module,
        tx,
        mesh,
        pixels=Pixels(module.config.vision.image_size, (0.5,) * 3, (0.5,) * 3),
        seed=recipe.seed,
        train=run.trained(recipe),
        dtype=module.compute.dtype,
        **run.loss_of(recipe),
    )
    compiled = step.lower(state, _batch(recipe, module, mesh)).compile()
    memory, program = compiled.memory_analysis(), Program(compiled.as_text())
    found = {
        "topology": topology,
        "slices": slices,
        "chips": mesh.size,
        "mesh": dict(mesh.shape),
        "batch_size": recipe.batch_size,
        "micro_batch": recipe.micro_batch or recipe.batch_size,
        "pairs_a_chip": (recipe.micro_batch or recipe.batch_size) // mesh.size,
        "memory": {
            "arguments": memory.argument_size_in_bytes,
            "outputs": memory.output_size_in_bytes,
            "aliases": memory.alias_size_in_bytes,
            "temporaries": memory.temp_size_in_bytes,
            "code": memory.generated_code_size_in_bytes,
        },
        "flops": {part: count // mesh.size for part, count in arithmetic(recipe, module).items()},
        "traffic": dict(program.traffic()),
        "collectives": {
            kind: {"times": times, "bytes": size} for kind, (times, size) in program.collectives().items()
        },
    }
    return found | _verdict(found, chip)


def config_of(recipe: Recipe) -> DualEncoderConfig:
    """The model's config: from the recipe's own numbers, else from the towers' folders. Raises ConfigError."""
    m = recipe.model
    halves: dict[str, Any] = {}
    for tower, name, numbers, pooling in (
        ("vision", m.vision, m.vision_config, m.vision_pooling),
        ("text", m.text, m.text_config, m.text_pooling),
    ):
        found, _ = pretrained.read_tower(tower, "" if numbers else name, pooling=pooling, overrides=numbers)
        halves |= {f"{tower}_type": found.model_type, tower: found.config}
    bias = run.bias_of(recipe)
    return DualEncoderConfig(
        **halves,
        projection_dim=m.projection_dim,
        logit_scale_init_value=m.logit_scale_init,
        logit_bias_init_value=bias,
    )


def arithmetic(recipe: Recipe, module: DualEncoder) -> dict[str, int]:
    """Model FLOPs of a step over all chips, by part: what the maths asks for, recomputation not included."""
    config, rows = module.config, recipe.batch_size
    m = DualEncoder(config)  # Without kernels, whose arithmetic does not show.
    shapes = dual_encoder.param_shapes(m)
    size = config.vision.image_size
    images = jax.ShapeDtypeStruct((rows, size, size, config.vision.num_channels), jnp.float32)
    ids = jax.ShapeDtypeStruct((rows, recipe.data.text_length), jnp.int32)
    forward = {
        "image": 0
        if recipe.cache
        else flops_of(lambda p, x: m.apply({"params": p}, x, method="pool_images"), shapes, images),
        "text": flops_of(lambda p, x: m.apply({"params": p}, texts={"input_ids": x})[1], shapes, ids),
        # Both directions of the softmax look at the same products.
        "loss": 2 * rows * rows * recipe.model.projection_dim,
    }
    letters = dict(zip(("image", "text"), recipe.model.lock, strict=True)) | {"loss": "U"}
    # A backward pass multiplies twice, for the inputs and for the weights.
    backward = {f"{part} backward": 2 * n for part, n in forward.items() if letters[part] != "L"}
    return {f"{part} forward": n for part, n in forward.items()} | backward


def parameters(config: Any) -> list[tuple[str, ...]]:
    """A row for every parameter of a recipe: path, shape, locked or tuned, learning rate, decay, dtype, split, bytes.

    The learning rate is a share of the schedule's; `split` is the axis that lies over fsdp. No device is asked.
    """
    recipe = read(config, empty=NEEDLESS)
    module = DualEncoder(config_of(recipe), run.compute_of(recipe.model, "tpu"))
    shapes = dual_encoder.param_shapes(module)
    rules = run.rules_of(recipe, shapes, ())
    rows: list[tuple[str, ...]] = []
    for path, leaf in sorted(traverse_util.flatten_dict(shapes, sep="/").items()):
        locked = optim.first_match(path, rules, "tune") == "lock"
        dtype = recipe.model.locked_dtype if locked else "float32"
        axes = [str(i) for i, name in enumerate(spec(path, leaf.shape, recipe.mesh.fsdp)) if name is not None]
        rate = optim.first_match(path, recipe.optim.lr_multipliers, 1.0)
        decay = optim.first_match(path, optim.DECAY, False)
        rows.append(
            (
                path,
                "x".join(map(str, leaf.shape)) or "1",
                "locked" if locked else "tuned",
                "-" if locked else f"{rate:g}",
                "-" if locked else f"{recipe.optim.weight_decay if decay else 0:g}",
                dtype,
                ",".join(axes) or "-",
                str(int(np.prod(leaf.shape, dtype=np.int64)) * np.dtype(run.DTYPES[dtype]).itemsize),
            )
        )
    return rows


COLUMNS = ("parameter", "shape", "lock", "lr", "decay", "dtype", "split", "bytes")


def _verdict(found: dict[str, Any], chip: Chip) -> dict[str, Any]:
    m = found["memory"]
    peak = m["arguments"] + m["outputs"] - m["aliases"] + m["temporaries"] + m["code"]
    times = {
        "arithmetic": sum(found["flops"].values()) / chip.flops,
        "memory": sum(found["traffic"].values()) / chip.bandwidth,
        "links": sum(c["bytes"] for c in found["collectives"].values()) / chip.links,
    }
    binds = max(times, key=lambda name: times[name])
    return {
        "peak": peak,
        "limit": chip.hbm,
        "fits": peak <= FITS * chip.hbm,
        "seconds": times,
        "binds": binds,
        "mfu": times["arithmetic"] / times[binds],
        "pairs_a_second": found["batch_size"] / times[binds],
    }


def _batch(recipe: Recipe, module: DualEncoder, mesh: Mesh) -> dict[str, Any]:
    config, rows = module.config, NamedSharding(mesh, BATCH)

    def shaped(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((recipe.batch_size, *shape), dtype, sharding=rows)

    names = ["input_ids", "attention_mask"]
    if getattr(config.text, "type_vocab_size", 0) > 1:
        names.append("token_type_ids")
    batch: dict[str, Any] = {
        "index": shaped((), jnp.int32),
        "texts": {name: shaped((recipe.data.text_length,), jnp.int32) for name in names},
    }
    if recipe.cache:
        return batch | {"pooled_images": shaped((config.vision.hidden_size,), jnp.float32)}
    size = config.vision.image_size
    return batch | {"images": shaped((size, size, config.vision.num_channels), jnp.uint8)}


def _chip(topology: str) -> Chip:
    kind = topology.partition(":")[0]
    if kind not in CHIPS or not topology.partition(":")[2]:
        raise ConfigError(
            f"topology {topology!r} is none; wanted one of {', '.join(CHIPS)} and a shape, for instance v5e:2x4"
        )
    return CHIPS[kind]


def _devices(topology: str, slices: int) -> list[Any]:
    from jax.experimental import topologies

    try:
        with _quiet():
            found = topologies.get_topology_desc(
                topology_name=topology, platform="tpu", **({"num_slices": slices} if slices > 1 else {})
            )
    except Exception as error:  # jax and libtpu raise a dozen kinds, down to RuntimeError from C++.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"topology {topology!r} cannot be planned for: {reason} (libtpu compiles it; pip install 'lit_jax[tpu]')"
        ) from error
    return list(found.devices)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """libtpu asks the machine for the TPU that it sits in, and says at length that there is none."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
