"""LiT in many languages: a locked ViT-B/16 and a tuned XLM-R base.

lit-jax plan --config configs/lit_multilingual.py
lit-jax train --config configs/lit_multilingual.py:smoke --workdir DIR
lit-jax train --config configs/lit_multilingual.py --config.data.train tfds:NAME/train --workdir DIR
"""

from ml_collections import ConfigDict

from lit_jax.config import default_config


def get_config(arg: str = "full") -> ConfigDict:
    """`arg` is "full", with data from the command line, or "smoke": seconds on a CPU, without weights or files."""
    if arg not in ("full", "smoke"):
        raise ValueError(f"there is no argument {arg!r}; wanted full or smoke")
    c = default_config()
    c.steps = 55_000
    c.batch_size = 16_384  # pairs, over all devices
    c.micro_batch = 2_048  # pairs in memory at once; every pair is compared with the whole batch
    c.topology = "v5e:2x4"

    c.model.vision = "google/vit-base-patch16-224-in21k"
    c.model.text = "FacebookAI/xlm-roberta-base"
    c.model.vision_config = {"model_type": "vit", "image_size": 224, "patch_size": 16}  # ViT-B's sizes.
    c.model.text_config = {
        "model_type": "xlm-roberta",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "vocab_size": 250_002,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
    }
    c.model.lock_towers = "LU"
    c.model.projection_dim = 768
    c.model.vision_pooling = "cls"
    c.model.max_logit_scale = 100.0
    c.model.dtype = c.model.locked_dtype = "bfloat16"
    c.model.remat = "products"

    c.data.text_length = 64  # tokens

    c.optim.mu_dtype = "bfloat16"
    c.optim.warmup_steps = 10_000

    c.log_every, c.eval_every, c.save_every = 50, 5_000, 1_000  # steps
    return _small(c) if arg == "smoke" else c


def _small(c: ConfigDict) -> ConfigDict:
    """The same run on drawings, with small random towers; the image tower is locked as it is."""
    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    c.steps, c.batch_size, c.micro_batch = 100, 64, 32
    c.model.vision = c.model.text = ""
    c.model.vision_config.update(size, image_size=32, patch_size=8)
    c.model.text_config.update(size, vocab_size=256, max_position_embeddings=64)
    c.model.lock_towers, c.model.lock_rules = "uu", (("vision/.*", "lock"),)
    c.model.projection_dim, c.model.dtype = 64, "auto"
    c.data.train, c.data.test, c.data.text_length = "shapes:512/train", "shapes:128/test", 16
    c.optim.peak_lr, c.optim.warmup_steps = 3e-3, 10
    c.log_every, c.eval_every, c.save_every = 10, 50, 50
    return c
