"""LiT on emoji: a locked DINOv2-shaped ViT-S/14 and a tuned MiniLM. It takes minutes on two cores.

lit-jax quickstart --workdir DIR
lit-jax quickstart --workdir DIR --config.seed 1
lit-jax quickstart --workdir DIR --config configs/quickstart.py:smoke
lit-jax quickstart --workdir DIR --config configs/quickstart.py:frozen
lit-jax grid --workdir DIR --config configs/quickstart.py:grid
"""

from ml_collections import ConfigDict

from lit_jax.config import default_config


def get_config(arg: str = "full") -> ConfigDict:
    """`arg` is "full", for which the quickstart fills in towers and data, or "smoke": seconds, without packages.

    With "grid" it is the config for each run of `lit-jax grid`; with "frozen" both towers are locked under an MLP.
    """
    if arg not in ("full", "smoke", "grid", "frozen"):
        raise ValueError(f"there is no argument {arg!r}; wanted full or smoke, or grid or frozen")
    c = default_config()
    c.steps = 160
    c.batch_size = 128  # pairs, over all devices
    c.cache = True  # The image tower is locked: each picture goes through it once.

    c.model.lock_towers = "LU"  # image tower locked, text tower pretrained and tuned
    # These are half of MiniLM; 1,500 captions cannot improve them.
    c.model.lock_rules = (("text/embeddings/.*", "lock"),)
    c.model.logit_scale_init = 2.0794  # ln 8
    c.model.max_logit_scale = 100.0

    c.data.text_length = 16  # tokens

    c.optim.warmup_steps = 16
    c.optim.weight_decay = 0.1
    c.optim.lr_multipliers = (("text/.*", 0.1),)

    c.eval_every, c.save_every = 80, 40  # steps
    others = {"smoke": _small, "grid": _grid, "frozen": _frozen}
    return others[arg](c) if arg in others else c


def _frozen(c: ConfigDict) -> ConfigDict:
    """Both towers locked and cached; docs/frozen_towers.md has the results."""
    c.steps, c.batch_size = 200, 512
    c.model.lock_towers, c.model.lock_rules = "LL", ()
    c.model.vision_pooling, c.model.text_pooling = "cls_mean", "mean"
    c.model.vision_head = c.model.text_head = "mlp"
    head = {"hidden": (1536,), "dropout": 0.4, "skip": True, "standardise": True}
    c.model.vision_head_config, c.model.text_head_config = dict(head), dict(head)
    c.model.logit_scale_init = 2.6592  # ln(1 / 0.07)
    c.optim.warmup_steps, c.optim.lr_multipliers = 20, ()
    c.eval_every, c.save_every = 0, 100
    return c


def _grid(c: ConfigDict) -> ConfigDict:
    """A budget with which a cell with a tuned image tower takes minutes; `grid` sets lock_towers, seed and rates."""
    c.steps, c.batch_size = 32, 64
    c.model.lock_rules = ()  # The letters alone say what is tuned.
    c.data.text_length = 12  # 95 % of the held-out captions are not longer.
    c.optim.warmup_steps, c.optim.lr_multipliers = 4, ()
    c.log_every, c.eval_every, c.save_every, c.keep = 8, 0, 16, 1
    return c


def _small(c: ConfigDict) -> ConfigDict:
    """The same run on drawings, with small random towers; the image tower is locked as it is."""
    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    c.steps, c.batch_size = 100, 64
    c.model.vision_config = {"model_type": "vit", "image_size": 32, "patch_size": 8, **size}
    c.model.text_config = {"model_type": "bert", "vocab_size": 256, "max_position_embeddings": 64, **size}
    c.model.lock_towers, c.model.lock_rules = "uu", (("vision/.*", "lock"),)
    c.model.vision_pooling, c.model.projection_dim = "cls", 64
    c.data.train, c.data.test = "shapes:512/train", "shapes:128/test"
    c.optim.peak_lr, c.optim.warmup_steps, c.optim.lr_multipliers = 3e-3, 10, ()
    c.eval_every, c.save_every = 50, 50
    return c
