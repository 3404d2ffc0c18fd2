"""The values that fields can have, as data: checking a config imports neither JAX nor the modules that implement them.

tests/test_config.py compares each table with the one in the module that implements it.
"""

from lit_jax.utils.head_fields import KINDS
from lit_jax.utils.names import DIRECTIONS, TEST_PREFIX

CHOICES: dict[str, tuple[str, ...]] = {
    # The poolings of all types together; a single type can have fewer.
    "model.vision_pooling": ("pooler", "cls", "mean", "cls_mean", "last", "max"),
    "model.text_pooling": ("pooler", "cls", "mean", "tanh", "cls_mean", "last", "max"),
    "model.vision_head": tuple(KINDS),
    "model.text_head": tuple(KINDS),
    "model.init": ("random", "cca"),
    "model.dtype": ("auto", "float32", "bfloat16"),
    "model.locked_dtype": ("float32", "bfloat16"),
    "model.remat": ("none", "products", "narrow", "full"),
    "model.attention": ("auto", "rows", "splash", "xla", "cudnn"),
    "data.decode": ("exact", "fast", "turbo"),
    "data.augment": ("none", "flip", "crop", "crop_flip", "randaugment"),
    "data.on_bad_record": ("skip", "error"),
    "optim.name": ("adamw", "lion", "adafactor", "muon"),
    "optim.mu_dtype": ("float32", "bfloat16"),
    "optim.schedule": ("cosine", "linear", "rsqrt", "constant"),
    "loss": ("softmax", "sigmoid"),
    "loss_how": ("gathered", "ring"),
    "loss_precision": ("float32", "bfloat16"),
    "positives": ("one", "all"),
    "cache_dtype": ("float32", "float16", "bfloat16"),
    "best_mode": ("max", "min"),
}
LETTERS = ("L", "U", "A", "u")  # The letters of model.lock_towers.
ACTIONS: dict[str, tuple[str, ...]] = {  # Field -> the actions of its rules over parameter paths.
    "model.lock_rules": ("lock", "tune"),
    "mesh.fsdp_rules": ("split", "whole"),
}
SOURCES = ("tfds", "folder", "wds", "parquet", "arrow", "shapes")  # How a source spec begins, before a colon.
# The metrics of an evaluation on data.test, for best_metric.
METRICS = tuple(
    f"{TEST_PREFIX}{direction}_{measure}"
    for direction in DIRECTIONS
    for measure in ("recall@1", "recall@5", "recall@10", "median_rank", "mean_rank")
)
