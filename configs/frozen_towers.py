"""Two locked towers: a DINOv2-shaped ViT-B/14 and a BERT-shaped sentence encoder, aligned through an MLP on each.

lit-jax train --config configs/frozen_towers.py:smoke --workdir DIR
lit-jax train --config configs/frozen_towers.py --config.data.train wds:DIR/*.tar --workdir DIR
lit-jax align VISION TEXT SOURCE --workdir DIR
"""

from ml_collections import ConfigDict

from lit_jax.config import default_config


def get_config(arg: str = "full") -> ConfigDict:
    """`arg` is "full", with data from the command line, or "smoke": seconds on a CPU, without weights or files.

    With "align" it is the config that `lit-jax align` starts from, which fills in the towers and the data.
    """
    if arg not in ("full", "smoke", "align"):
        raise ValueError(f"there is no argument {arg!r}; wanted full or smoke, or align")
    c = default_config()
    c.steps = 5_000
    c.batch_size = 8_192  # pairs, over all devices
    c.loss_chunk = 1_024
    c.topology = "v5e:2x4"
    c.cache = ("vision", "text")  # Each picture and each caption goes through its tower once.

    c.model.vision = "facebook/dinov2-base"
    c.model.text = "intfloat/e5-base-v2"
    c.model.vision_config = {"model_type": "dinov2"}
    c.model.text_config = {"model_type": "bert"}
    c.model.lock_towers = "LL"
    c.model.vision_pooling, c.model.text_pooling = "cls_mean", "mean"
    c.model.text_prompt = "query: "
    c.model.vision_head = c.model.text_head = "mlp"
    c.model.vision_head_config = {"dropout": 0.2, "skip": True}
    c.model.text_head_config = {"dropout": 0.2, "skip": True}
    c.model.max_logit_scale = 100.0

    c.data.text_length = 64  # tokens

    c.optim.warmup_steps = 250
    c.optim.weight_decay = 0.1

    c.log_every, c.eval_every, c.save_every = 50, 500, 500  # steps
    if arg == "align":
        return _align(c)
    return _small(c) if arg == "smoke" else c


def _align(c: ConfigDict) -> ConfigDict:
    """For any towers: a start in closed form, standardised features, and steps for a few hundred thousand pairs."""
    c.steps, c.batch_size = 1_000, 4_096
    c.cache = True
    c.model.vision = c.model.text = c.model.text_prompt = ""
    c.model.vision_config, c.model.text_config = {}, {}
    c.model.init = "cca"
    c.model.vision_head_config["standardise"] = c.model.text_head_config["standardise"] = True
    c.optim.warmup_steps = 50
    c.log_every, c.eval_every, c.save_every = 50, 250, 250  # steps
    return c


def _small(c: ConfigDict) -> ConfigDict:
    """The same run on drawings, with small random towers that are locked as they are."""
    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    c.steps, c.batch_size, c.loss_chunk = 400, 64, 16
    c.model.vision = c.model.text = ""
    c.model.vision_config.update(size, image_size=32, patch_size=8, mlp_ratio=2)
    c.model.text_config.update(size, intermediate_size=128, vocab_size=256, max_position_embeddings=64)
    c.model.lock_towers = "uu"
    c.model.lock_rules = (("vision/.*", "lock"), ("text/.*", "lock"))
    c.model.projection_dim = 64
    c.data.train, c.data.test, c.data.text_length = "shapes:512/train", "shapes:128/test", 16
    c.optim.peak_lr, c.optim.warmup_steps = 3e-3, 10
    c.log_every, c.eval_every, c.save_every = 10, 200, 200
    return c
