"""What a config costs on TPUs, without having them: its real train step is compiled ahead of time and counted.

libtpu compiles for any slice on any machine. No weight is read or computed: configs stand for the towers, and shapes
for the weights and batches.
"""

import bisect
import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from lit_jax.config import NEEDLESS, TrainConfig, read_config
from lit_jax.data.transforms.normalize import PixelNormalizer
from lit_jax.hf import load
from lit_jax.inference.embed_step import make_embed_step
from lit_jax.models import dual_encoder
from lit_jax.models.dual_encoder import DualEncoder
from lit_jax.models.layers.packing import SOURCE, TARGET
from lit_jax.parallel.sharding import BATCH
from lit_jax.tools.plan.decoding import Host, decoding
from lit_jax.tools.plan.flops import count
from lit_jax.tools.plan.hlo import Program
from lit_jax.tools.plan.parameters import arithmetic, config_of, picture_shape, picture_size
from lit_jax.tools.plan.topology import Chip, chip_of, devices_of
from lit_jax.train.adapters import with_adapters
from lit_jax.train.build import Training, build_training, compute_of, mesh_of
from lit_jax.train.partition import combine
from lit_jax.train.state import State, abstract_state
from lit_jax.train.tower_cache import cached_whole
from lit_jax.utils.divisors import divisors
from lit_jax.utils.errors import ConfigError

FITS = 0.95  # The share of the HBM that a program may use; the runtime needs the rest.


class _Target(NamedTuple):
    """What is compiled and for which devices."""

    config: TrainConfig
    topology: str
    slices: int
    chip: Chip
    mesh: Mesh
    module: DualEncoder

    @property
    def pixels(self) -> PixelNormalizer:
        return PixelNormalizer(picture_size(self.config, self.module.config), (0.5,) * 3, (0.5,) * 3)


def plan(
    config: Any, topology: str = "", *, slices: int = 1, host: Host | None = None, embed: bool = True
) -> dict[str, Any]:
    """Compiles the train step and the embed steps of `config` for a slice such as "v5e:2x4": what each costs a chip.

    Bytes, floating-point operations and seconds are those of one step. "flops" are the model's own, by part; "executed"
    are those that the program runs. Of these, "recomputed" are due to remat and micro-batches; any further excess over
    the model's is due to kernels, which pad heads and compute scores twice. "loss_share" is the share of the loss and
    its gradients in the time of the arithmetic. With `host`, "decoding" says whether such hosts keep up; it is None if
    the outputs of the image tower are cached. Without `embed`, the embed steps are left out. Raises ConfigError if the
    slice is unknown or does not suit the recipe, if libtpu is not installed, or if XLA finds no room for the program.
    """
    target = _target(config, topology, slices)
    recipe, mesh = target.config, target.mesh
    rows = recipe.micro_batch or recipe.batch_size
    model = {part: count // mesh.size for part, count in arithmetic(recipe, target.module).items()}
    planned: dict[str, Any] = {
        "topology": target.topology,
        "slices": slices,
        "chips": mesh.size,
        "hosts": len({device.process_index for device in mesh.devices.flat}),
        "mesh": dict(mesh.shape),
        "batch_size": recipe.batch_size,
        "micro_batch": rows,
        "pairs_a_chip": rows // mesh.size,
        "flops": model,
    }
    planned["state"] = held(_given(target, _state(target)[1]))
    traced = traced_step(target)
    planned |= _cost(traced, target)
    planned["loss_share"] = _loss_share(traced.jaxpr.jaxpr)
    planned["recomputed"] = planned["executed"] - _least(target)
    planned["mfu"] = sum(model.values()) / target.chip.flops / planned["seconds"][planned["binds"]]
    planned["pairs_a_second"] = recipe.batch_size / planned["seconds"][planned["binds"]]
    if host:
        cached = "vision" in recipe.cached
        planned["decoding"] = None if cached else decoding(planned["pairs_a_second"], planned["hosts"], host)
    planned["embed"] = {
        name: cost | {"rows_a_second": rows / cost["seconds"][cost["binds"]]}
        for name, cost in (_embed_steps(target, rows) if embed else {}).items()
    }
    return planned


def find_batch(config: Any, topology: str = "", *, slices: int = 1) -> tuple[int, dict[int, int | None]]:
    """The largest micro-batch of `config` whose train step fits, found by bisection; and the peaks seen.

    The peaks map a micro-batch to bytes per chip, None if XLA found no room. Raises ConfigError as `plan` does, and if
    not even the smallest micro-batch fits.
    """
    target = _target(config, topology, slices, micro_batch=0)
    batch, chips = target.config.batch_size, target.mesh.size
    sizes = [n for n in divisors(batch) if n % chips == 0]
    peaks: dict[int, int | None] = {}

    def fits(size: int) -> bool:
        config = dataclasses.replace(target.config, micro_batch=0 if size == batch else size)
        smaller = target._replace(config=config)
        try:
            cost = _cost(traced_step(smaller), smaller)
        except NoRoom:
            peaks[size] = None
            return False
        peaks[size] = cost["peak"]
        return cost["fits"]

    fitting = bisect.bisect_left(sizes, True, key=lambda size: not fits(size))
    if not fitting:
        raise NoRoom(
            f"not even a micro-batch of {sizes[0]} pairs fits {target.topology}; set model.remat or mesh.fsdp"
        )
    return sizes[fitting - 1], peaks


class NoRoom(ConfigError):
    """A program that is too large for the chip."""


def _target(config: Any, topology: str, slices: int, micro_batch: int | None = None) -> _Target:
    recipe = read_config(config, empty=NEEDLESS)
    if micro_batch is not None:
        recipe = dataclasses.replace(recipe, micro_batch=micro_batch)
    topology = topology or recipe.topology
    chip = chip_of(topology)
    mesh = mesh_of(recipe, devices_of(topology, slices))
    compute = dataclasses.replace(compute_of(recipe.model, "tpu"), mesh=mesh)
    module = DualEncoder(config_of(recipe), compute)
    return _Target(recipe, topology, slices, chip, mesh, module)


def _loss_share(jaxpr: Any) -> float:
    """The loss's share of the time of a step's arithmetic, including the gradients of the embeddings."""
    return count(jaxpr, passes=True, scope="loss") / count(jaxpr, passes=True)


def _least(target: _Target) -> int:
    """Operations per chip of the same step if it computes nothing twice to save memory."""
    whole = dataclasses.replace(target.config, micro_batch=0)
    module = load.with_compute(target.module, remat="none")
    traced = traced_step(target._replace(config=whole, module=module))
    return count(traced.jaxpr.jaxpr) // target.mesh.size


def _state(target: _Target) -> tuple[Training, State]:
    """The training that a run would build, and the shapes of its state with their shardings."""
    shapes = with_adapters(dual_encoder.param_shapes(target.module), target.config.model)
    training = build_training(target.config, target.module, shapes, target.mesh, target.pixels)
    locks, tx, dtype = training.locks, training.tx, training.locked_dtype
    average = bool(target.config.optim.ema)
    return training, abstract_state(shapes, locks, tx, target.mesh, dtype, training.layout, average)


def held(state: State) -> dict[str, int]:
    """Bytes per chip of what a step always holds, and of the gradients, which are sharded like the tuned weights."""
    parts = {
        "tuned": state.tuned,
        "gradients": state.tuned,
        "optimiser": state.opt,
        "average": state.ema,
        "locked": state.locked,
    }
    return {
        name: sum(
            math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
            for leaf in jax.tree.leaves(part)
        )
        for name, part in parts.items()
    }


def _given(target: _Target, state: State) -> State:
    """What a step gets of a state: no tower with cached outputs. A run does the same: see `train/loop.py`."""
    aside = cached_whole(target.config, state.tuned)
    locked = {name: part for name, part in state.locked.items() if name not in aside}
    return dataclasses.replace(state, locked=locked)


def traced_step(target: _Target) -> Any:
    """The train step that a run would jit, traced for the shapes of its state and of a batch."""
    training, state = _state(target)
    step: Any = training.step
    return step.trace(
        _given(target, state), _batch(target.config, target.module, target.mesh, target.config.batch_size)
    )


def _embed_steps(target: _Target, rows: int) -> dict[str, dict[str, Any]]:
    """What an evaluation runs: pictures and captions, `rows` at a time, with the state's own parameters."""
    embed: Any = make_embed_step(
        target.module, target.mesh, target.pixels, jnp.dtype(target.module.compute.dtype)
    )
    _, state = _state(target)
    params = combine(state.tuned, state.locked)
    one = dataclasses.replace(target.config.data, captions_per_image=1)
    plain = dataclasses.replace(target.config.model, text_rows=1.0)  # Texts share rows in training only.
    config = dataclasses.replace(target.config, cache=False, data=one, model=plain)
    batch = _batch(config, target.module, target.mesh, rows)
    return {
        "images": _cost(embed.images.trace(params, batch["images"]), target),
        "texts": _cost(embed.texts.trace(params, batch["texts"]), target),
    }


def _cost(traced: Any, target: _Target) -> dict[str, Any]:
    """A traced function, compiled for the target and counted. Raises NoRoom."""
    chip, chips = target.chip, target.mesh.size
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).splitlines()[0].partition(": ")[2].rstrip(".")
        raise NoRoom(
            f"the program does not fit a chip of {target.topology}: {reason}; lower micro_batch (plan --find-batch "
            "finds the largest), set model.remat, or split parameters by mesh.fsdp"
        ) from error
    m, program = compiled.memory_analysis(), Program(compiled.as_text())
    memory = {
        "arguments": m.argument_size_in_bytes,
        "outputs": m.output_size_in_bytes,
        "aliases": m.alias_size_in_bytes,
        "temporaries": m.temp_size_in_bytes,
        "code": m.generated_code_size_in_bytes,
    }
    peak = sum(memory.values()) - 2 * memory["aliases"]
    executed = count(traced.jaxpr.jaxpr) // chips
    traffic = dict(program.traffic())
    collectives = {
        kind: {"times": times, "bytes": size} for kind, (times, size) in program.collectives().items()
    }
    seconds = {
        "arithmetic": count(traced.jaxpr.jaxpr, passes=True) / chips / chip.flops,
        "memory": sum(traffic.values()) / chip.bandwidth,
        "links": sum(c["bytes"] for c in collectives.values()) / chip.links,
    }
    return {
        "memory": memory,
        "peak": peak,
        "limit": chip.hbm,
        "fits": peak <= FITS * chip.hbm,
        "executed": executed,
        "traffic": traffic,
        "collectives": collectives,
        "seconds": seconds,
        "binds": max(seconds, key=lambda name: seconds[name]),
    }


def _batch(recipe: TrainConfig, module: DualEncoder, mesh: Mesh, pairs: int) -> dict[str, Any]:
    config, rows = module.config, NamedSharding(mesh, BATCH)

    def shaped(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((pairs, *shape), dtype, sharding=rows)

    names, count = ["input_ids", "attention_mask"], recipe.data.captions_per_image
    several = (count,) if count > 1 else ()
    if getattr(config.text, "type_vocab_size", 0) > 1:
        names.append("token_type_ids")
    batch: dict[str, Any] = {"index": shaped((), jnp.int32)}
    if "text" in recipe.cached:
        width = dual_encoder.pooled_widths(module)["text"]
        batch["pooled_texts"] = shaped((*several, width), jnp.float32)
        batch["text_groups"] = shaped(several, jnp.int32)
    else:
        if recipe.model.text_rows < 1:  # Without a mask, only the case that all texts fit is counted.
            names = [SOURCE, TARGET, *(name for name in names if name != "attention_mask")]
        batch["texts"] = {name: shaped((*several, recipe.data.text_length), jnp.int32) for name in names}
    if "vision" in recipe.cached:
        width = dual_encoder.pooled_widths(module)["vision"]
        return batch | {"pooled_images": shaped((width,), jnp.float32)}
    return batch | {"images": shaped(picture_shape(recipe, config), jnp.uint8)}
