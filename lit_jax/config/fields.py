"""Every field of a config, with its type and its default."""

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

from lit_jax.utils.names import TOWERS


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The towers and what is done with them."""

    vision: str  # Folder or Hub id of the image tower. Empty: it is built from vision_config and starts from scratch.
    text: str  # Folder or Hub id of the text tower. Empty: likewise, from text_config.
    # Image tower, text tower: L locked, U tuned, u from scratch (LiT, arXiv:2111.07991), A locked with tuned adapters.
    lock_towers: str = "LU"
    # Of adapters (LoRA, arXiv:2106.09685): their rank; alpha / rank is what their products are multiplied by; regexes
    # over the paths of the kernels that have one. The defaults are those of peft for a BERT.
    lora_rank: int = 8
    lora_alpha: int = 8
    lora_targets: tuple[str, ...] = (".*/attn/(query|value)/kernel",)
    # (regex over parameter paths, "lock" or "tune"); they are asked before the letters of lock_towers.
    lock_rules: tuple[tuple[str, str], ...] = ()
    projection_dim: int = 512
    # Widths that rise, (64, 128, 256, 512): the loss is the sum of those of the first numbers of the embeddings, each
    # of unit length again (Matryoshka, arXiv:2205.13147), so that an embedding may be cut. What lies beyond the last
    # width is not trained: end with projection_dim. Empty: the loss of whole embeddings.
    matryoshka: tuple[int, ...] = ()
    # "pooler": the tower's own. "cls", "mean", "cls_mean" (both, side by side), "last", "max": of its tokens.
    vision_pooling: str = "pooler"
    text_pooling: str = "pooler"  # Also "tanh", for towers without a pooler of their own.
    text_prompt: str = (
        ""  # Put before every caption ("query: "). Empty: what the tokenizer's folder says, if anything.
    )
    # The side of the pictures in pixels, or (height, width). None: the image tower's own. Otherwise its position tables
    # are resized.
    image_size: int | tuple[int, int] | None = None
    # "linear", "linear_bias", "mlp", "glu" or "identity", and the fields of that kind (utils/head_fields.py).
    vision_head: str = "linear"
    vision_head_config: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    text_head: str = "linear"
    text_head_config: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    # "random", or "cca": the linear parts of both heads are computed from the caches of both towers.
    init: str = "random"
    allow_pickle: bool = False  # Read pytorch_model.bin if a tower has nothing else.
    logit_scale_init: float = 2.6592  # ln(1 / 0.07)
    logit_bias_init: float | None = None  # Of the sigmoid loss. None: -10, as in SigLIP.
    max_logit_scale: float | None = None  # Upper bound of exp(logit_scale); 100 in CLIP. None: no bound.
    dtype: str = "auto"  # Of the arithmetic. "auto": bfloat16 on accelerators, float32 on CPUs.
    # Of the locked weights in memory. A tower with the letter L or A, and no lock_rules, is read in it from the start.
    locked_dtype: str = "float32"
    # What the backward pass computes again: "none", "products", "narrow" or "full" (models/layers/spec.py).
    remat: str = "products"
    # "rows": our kernel for TPUs; "splash": JAX's own there; "cudnn" for GPUs; "xla". "auto": the first that fits.
    attention: str = "auto"
    unroll: int = 1  # Layers in one turn of the loop over the layers.
    # Rows of text_length tokens for the texts of a batch, as a share of their number. Below 1 short texts share a row
    # (token packing). `lit-jax inspect --tokenizer` says which share suffices.
    text_rows: float = 1.0
    # Fields that replace those of the tower's own config, for instance a dropout. With a model_type they apply to
    # towers of that type alone. A tower without a folder consists of them, and `plan` reads them instead of the folder.
    # num_hidden_layers (of T5 num_layers, of DistilBERT n_layers) below the stored number keeps the first layers.
    vision_config: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    text_config: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is trained and evaluated on, as source specs: tfds:..., folder:..., wds:..., parquet:..."""

    train: str | tuple[tuple[str, float], ...]  # One source, or a mixture: (source, weight) each.
    test: str = ""  # Empty: no evaluation.
    caption: str = ""  # The feature, column or key that holds the captions. Empty: it is found.
    text_length: int = 64  # Tokens, with padding.
    captions_per_image: int = (
        1  # Captions drawn of a picture for a step; different ones as far as it has them.
    )
    decode: str = "fast"  # For training: "fast", "turbo" (an extra) or "exact". Evaluation is always exact.
    # "none", "flip", "crop", "crop_flip" or "randaugment" (data/transforms/augment.py). A flip swaps left and right.
    augment: str = "none"
    on_bad_record: str = "skip"  # Or "error".
    max_broken: float = 0.01  # Share of the records that may be broken before the run ends.
    threads: int | None = None  # Threads that decode. None: one for each core.
    workers: int = (
        0  # Processes that decode, instead of threads, for machines whose cores one Python cannot keep busy.
    )


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The optimiser and its learning rate."""

    name: str = "adamw"  # Or "lion", "adafactor", "muon" (train/optim.py).
    mu_dtype: str = "float32"  # Of the first moment.
    peak_lr: float = 1e-3
    schedule: str = "cosine"  # Or "linear", "rsqrt", "constant".
    warmup_steps: int = 0
    end_lr: float = 0.0
    cooldown_steps: int = (
        0  # Of "rsqrt" and "constant": the last steps, in which the rate falls to end_lr in a line.
    )
    weight_decay: float = 1e-4
    clip_norm: float | None = 1.0  # Global norm to which gradients are clipped. None: they are not clipped.
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    # Decay of a moving average of the tuned weights, which is then what is evaluated and exported. 0: none is kept.
    ema: float = 0.0
    lr_multipliers: tuple[
        tuple[str, float], ...
    ] = ()  # (regex over parameter paths, factor); the first match counts.


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh."""

    data: int = -1  # -1: as many devices as fsdp leaves.
    fsdp: int = 1
    # (regex over parameter paths, "split" or "whole"); they are asked before those of parallel/sharding.py.
    fsdp_rules: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A run. Everything that changes its numbers is here."""

    steps: int
    batch_size: int  # Pairs, over all devices.
    model: ModelConfig
    data: DataConfig
    # Folder or Hub id of a dual encoder, all of whose weights the run starts from: towers, heads, temperature. What
    # `model` says of towers, poolings and heads is then not used.
    init_from: str = ""
    optim: OptimConfig = OptimConfig()
    mesh: MeshConfig = MeshConfig()
    seed: int = 0
    micro_batch: int = 0  # Pairs in memory at once, with all negatives kept. 0: the whole batch.
    loss: str = "softmax"  # Or "sigmoid".
    loss_how: str = "gathered"  # Or "ring", in which no device holds the texts of the whole batch.
    loss_chunk: int = 0  # Columns of logits at a time. 0: all.
    # Or "bfloat16", which rounds what the loss multiplies: for batches so large that the loss is much of a step.
    loss_precision: str = "float32"
    label_smoothing: float = 0.0
    # Of a picture with several captions in a step: "one", a loss for each caption; or "all", one loss in which all of
    # its captions are right (losses/captions.py).
    positives: str = "one"
    mask_duplicates: bool = (
        False  # Pairs that share their picture or their text are not negatives of each other.
    )
    # Compute the outputs of locked towers once: True: of all that have the letter L; or names, ("vision", "text").
    cache: bool | tuple[str, ...] = False
    cache_dtype: str = (
        "float32"  # Of these files. "bfloat16" and "float16" halve them, and round the outputs.
    )
    log_every: int = 10  # Steps.
    wandb: str = ""  # A project of Weights & Biases that gets the metrics too; needs the extra "wandb".
    monitor_every: int = (
        0  # Steps after which `monitors` (rank, alignment ... of the batch) are written. 0: never.
    )
    eval_every: int = 0  # Steps. 0: before the first step and after the last.
    save_every: int = 100  # Steps.
    keep: int = 3  # The newest checkpoints to keep.
    keep_best: int = (
        0  # The best checkpoints to keep beside them, by best_metric, of the steps with an evaluation.
    )
    best_metric: str = "test/text_to_image_recall@1"
    best_mode: str = "max"  # Or "min".
    stall_limit: float = 1800.0  # Seconds without a step after which the run ends. 0: never.
    topology: str = ""  # The TPU slice that `lit-jax plan` plans for, for instance "v5e:2x4".

    @property
    def cached(self) -> tuple[str, ...]:
        """The towers whose outputs `cache` asks for; True without an L means an image tower locked by rules."""
        return tuple(tower for tower in TOWERS if caches(tower, self.cache, self.model.lock_towers))


def caches(tower: str, cache: bool | tuple[str, ...], letters: str) -> bool:
    """Whether `cache` asks for the outputs of a tower, if the towers have these lock letters."""
    if isinstance(cache, tuple):
        return tower in cache
    return cache and (letters[TOWERS.index(tower)] == "L" or (tower == "vision" and "L" not in letters))


class Field(NamedTuple):
    """One field. `default` is dataclasses.MISSING if a run cannot do without the field."""

    name: str  # With its group: "optim.peak_lr".
    hint: Any
    default: Any


def _walk(cls: type, prefix: str = "") -> Iterator[Field]:
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        name, hint = prefix + field.name, hints[field.name]
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            yield from _walk(hint, f"{name}.")
        elif field.default_factory is not dataclasses.MISSING:
            yield Field(name, hint, field.default_factory())
        else:
            yield Field(name, hint, field.default)


FIELDS: dict[str, Field] = {field.name: field for field in _walk(TrainConfig)}
