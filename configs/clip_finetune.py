"""Both towers pretrained and tuned: ViT-B/16 and BERT-base, the image tower at a lower learning rate.

lit-jax plan --config configs/clip_finetune.py
lit-jax train --config configs/clip_finetune.py:smoke --workdir DIR
lit-jax train --config configs/clip_finetune.py --config.data.train tfds:NAME/train --workdir DIR
"""

from ml_collections import ConfigDict

from lit_jax.config import default_config


def get_config(arg: str = "full") -> ConfigDict:
    """`arg` is "full", with data from the command line, or "smoke": seconds on a CPU, without weights or files."""
    if arg not in ("full", "smoke"):
        raise ValueError(f"there is no argument {arg!r}; wanted full or smoke")
    c = default_config()
    c.steps = 20_000
    c.batch_size = 4_096  # pairs, over all devices
    c.micro_batch = 1_024  # pairs in memory at once; every pair is compared with the whole batch
    c.topology = "v5e:2x4"

    c.model.vision = "google/vit-base-patch16-224-in21k"
    c.model.text = "google-bert/bert-base-uncased"
    c.model.vision_config = {"model_type": "vit", "image_size": 224, "patch_size": 16}  # ViT-B's sizes.
    c.model.text_config = {
        "model_type": "bert",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    c.model.lock_towers = "UU"
    c.model.projection_dim = 768
    c.model.max_logit_scale = 100.0
    c.model.dtype = "bfloat16"

    c.data.text_length = 32  # tokens

    c.optim.mu_dtype = "bfloat16"
    c.optim.peak_lr = 1e-4
    c.optim.warmup_steps = 1_000
    c.optim.weight_decay = 0.1
    c.optim.lr_multipliers = (("vision/.*", 0.1),)

    c.log_every, c.eval_every, c.save_every = 50, 5_000, 1_000  # steps
    return _small(c) if arg == "smoke" else c


def _small(c: ConfigDict) -> ConfigDict:
    """The same run on drawings, with small towers from scratch."""
    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    c.steps, c.batch_size, c.micro_batch = 100, 64, 32
    c.model.vision = c.model.text = ""
    c.model.vision_config.update(size, image_size=32, patch_size=8)
    c.model.text_config.update(size, vocab_size=256, max_position_embeddings=64)
    # From scratch, the tanh of a pooler learns slowly.
    c.model.lock_towers, c.model.vision_pooling = "uu", "cls"
    c.model.projection_dim, c.model.dtype = 64, "auto"
    c.data.train, c.data.test, c.data.text_length = "shapes:512/train", "shapes:128/test", 16
    c.optim.peak_lr, c.optim.warmup_steps = 1e-3, 10
    c.optim.lr_multipliers = ()
    c.log_every, c.eval_every, c.save_every = 10, 50, 50
    return c
