"""Every field of a config, with its type and its default."""

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

from lit_jax.utils.names import TOWERS


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The towers and how they are used."""

    vision: str  # Folder or Hub id of the image tower. Empty: it is built from vision_config and starts from scratch.
    text: str  # Folder or Hub id of the text tower. Empty: likewise, from text_config.
    # Image tower, text tower: L locked, U tuned, u from scratch (LiT, arXiv:2111.07991), A locked with tuned adapters.
    lock_towers: str = "LU"
    # Adapters (LoRA, arXiv:2106.09685): their rank; alpha, where alpha / rank multiplies their products; and regexes
    # over the paths of the kernels that have one. The defaults are those of peft for a BERT.
    lora_rank: int = 8
    lora_alpha: int = 8
    lora_targets: tuple[str, ...] = (".*/attn/(query|value)/kernel",)
    # (regex over parameter paths, "lock" or "tune"); these rules come before the letters of lock_towers.
    lock_rules: tuple[tuple[str, str], ...] = ()
    projection_dim: int = 512
    # Ascending widths, (64, 128, 256, 512): the loss is the sum of the losses of these prefixes of the embeddings, each
    # normalised again (Matryoshka, arXiv:2205.13147), so that embeddings can be cut. Numbers beyond the last width are
    # not trained: end with projection_dim. Empty: the loss of whole embeddings.
    matryoshka: tuple[int, ...] = ()
    # "pooler": the tower's own pooled output. "cls", "mean", "cls_mean" (both, side by side), "last", "max": a pooling
    # of its tokens.
    vision_pooling: str = "pooler"
    text_pooling: str = "pooler"  # Also "tanh", for towers without a pooler of their own.
    # A prefix for every caption ("query: "). Empty: the one in the tokenizer's folder, if any.
    text_prompt: str = ""
    # The side of the pictures in pixels, or (height, width); the image tower's position tables are resized to it. None:
    # the tower's own size.
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
    logit_bias_init: float | None = None  # For the sigmoid loss. None: -10, as in SigLIP.
    max_logit_scale: float | None = None  # Upper bound of exp(logit_scale); 100 in CLIP. None: no bound.
    dtype: str = "auto"  # The dtype of the arithmetic. "auto": bfloat16 on accelerators, float32 on CPUs.
    # The dtype of locked weights in memory. A tower with the letter L or A, and no lock_rules, is directly read in it.
    locked_dtype: str = "float32"
    # How much the backward pass computes again, from nothing to everything: "none", "products", "narrow", "full"
    # (models/layers/spec.py).
    remat: str = "products"
    # "rows": our kernel for TPUs; "splash": JAX's own there; "cudnn" for GPUs; "xla". "auto": the first that fits.
    attention: str = "auto"
    unroll: int = 1  # Layers in each iteration of the loop over the layers.
    # Rows of text_length tokens for the texts of a batch, as a share of their number. Below 1, short texts share a row
    # (token packing). `lit-jax inspect --tokenizer` says which share suffices.
    text_rows: float = 1.0
    # Fields that replace those of the tower's own config, for instance a dropout. With a model_type they apply only to
    # towers of that type. A tower without a folder is defined by them, and `plan` reads them instead of the folder.
    # num_hidden_layers (num_layers for T5, n_layers for DistilBERT) below the stored number keeps the first layers.
    vision_config: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    text_config: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The data for training and evaluation, as source specs: tfds:..., folder:..., wds:..., parquet:..., arrow:..."""

    train: str | tuple[tuple[str, float], ...]  # One source, or a mixture: (source, weight) each.
    test: str = ""  # Empty: no evaluation.
    caption: str = ""  # The feature, column or key that holds the captions. Empty: it is found.
    text_length: int = 64  # Tokens, with padding.
    captions_per_image: int = 1  # Captions of a picture drawn for a step; different ones if it has enough.
    decode: str = "fast"  # For training: "fast", "turbo" (an extra) or "exact". Evaluation is always exact.
    # "none", "flip", "crop", "crop_flip" or "randaugment" (data/transforms/augment.py). A flip swaps left and right.
    augment: str = "none"
    on_bad_record: str = "skip"  # Or "error".
    max_broken: float = 0.01  # The share of broken records above which the run ends.
    threads: int | None = None  # Threads that decode. None: one for each core.
    # Processes that decode, instead of threads, for machines with more cores than one Python process can keep busy.
    workers: int = 0


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The optimiser and its learning rate."""

    name: str = "adamw"  # Or "lion", "adafactor", "muon" (train/optim.py).
    mu_dtype: str = "float32"  # The dtype of the first moment.
    peak_lr: float = 1e-3
    schedule: str = "cosine"  # Or "linear", "rsqrt", "constant".
    warmup_steps: int = 0
    end_lr: float = 0.0
    # For "rsqrt" and "constant": the number of last steps, in which the rate falls linearly to end_lr.
    cooldown_steps: int = 0
    weight_decay: float = 1e-4
    clip_norm: float | None = 1.0  # The global norm to which gradients are clipped. None: no clipping.
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    # The decay of a moving average of the tuned weights, which is evaluated and exported instead. 0: none is kept.
    ema: float = 0.0
    # (regex over parameter paths, factor); the first match counts.
    lr_multipliers: tuple[tuple[str, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """The sizes of the mesh, and how parameters are split over it."""

    data: int = -1  # -1: as many devices as fsdp leaves.
    fsdp: int = 1
    # (regex over parameter paths, "split" or "whole"); these rules come before those of parallel/sharding.py.
    fsdp_rules: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A run. Everything that changes its numbers is here."""

    steps: int
    batch_size: int  # Pairs, over all devices.
    model: ModelConfig
    data: DataConfig
    # Folder or Hub id of a dual encoder; the run starts from all of its weights: towers, heads, logit scale. What
    # `model` says about towers, poolings and heads is then not used.
    init_from: str = ""
    optim: OptimConfig = OptimConfig()
    mesh: MeshConfig = MeshConfig()
    seed: int = 0
    micro_batch: int = 0  # Pairs in memory at once, with all negatives kept. 0: the whole batch.
    loss: str = "softmax"  # Or "sigmoid".
    loss_how: str = "gathered"  # Or "ring", in which no device holds the texts of the whole batch.
    loss_chunk: int = 0  # Columns of logits at a time. 0: all.
    # Or "bfloat16", which rounds what the loss multiplies, for batches so large that the loss takes much of a step.
    loss_precision: str = "float32"
    label_smoothing: float = 0.0
    # For pictures with several captions in a step: "one" is a loss for each caption; "all" is one loss in which all of
    # its captions are right (losses/captions.py).
    positives: str = "one"
    mask_duplicates: bool = False  # Whether pairs with the same picture or text are left out as negatives.
    # Whether the outputs of locked towers are computed only once. True: for all with the letter L; or names,
    # ("vision", "text").
    cache: bool | tuple[str, ...] = False
    # The dtype of the cache files. "bfloat16" and "float16" halve their size, and round the outputs.
    cache_dtype: str = "float32"
    log_every: int = 10  # Steps between log lines.
    wandb: str = ""  # A project of Weights & Biases that gets the metrics too; needs the extra "wandb".
    # Steps between the `monitors` (rank, alignment ... of the batch). 0: none are written.
    monitor_every: int = 0
    eval_every: int = 0  # Steps between evaluations. 0: only before the first step and after the last.
    save_every: int = 100  # Steps between checkpoints.
    keep: int = 3  # The number of newest checkpoints to keep.
    # The number of best checkpoints to keep besides, by best_metric, among the steps with an evaluation.
    keep_best: int = 0
    best_metric: str = "test/text_to_image_recall@1"
    best_mode: str = "max"  # Or "min".
    stall_limit: float = 1800.0  # Seconds without a finished step after which the run ends. 0: never.
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
    """One field. `default` is dataclasses.MISSING if the field is required."""

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
