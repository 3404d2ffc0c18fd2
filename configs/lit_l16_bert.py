"""LiT with a locked ViT-L/16 and a tuned BERT-base (arXiv:2111.07991).

lit-jax plan --config configs/lit_l16_bert.py
lit-jax train --config configs/lit_l16_bert.py:smoke --workdir DIR
lit-jax train --config configs/lit_l16_bert.py --config.data.train tfds:NAME/train --workdir DIR
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
    c.topology = "v5e:2x4"

    c.model.vision = "google/vit-large-patch16-224-in21k"
    c.model.text = "google-bert/bert-base-uncased"
    c.model.vision_config = {
        "model_type": "vit",
        "image_size": 224,
        "patch_size": 16,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    }
    c.model.text_config = {
        "model_type": "bert",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    c.model.lock_towers = "LU"
    c.model.projection_dim = 1024
    c.model.vision_pooling = "cls"
    c.model.max_logit_scale = 100.0
    c.model.dtype = c.model.locked_dtype = "bfloat16"
    c.model.remat = "narrow"

    c.data.text_length = 32  # tokens

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
