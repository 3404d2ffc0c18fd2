"""Both towers tuned, from pretrained ones: ViT-B/16 and BERT-base, the image tower gently.

lit-jax plan --config configs/clip_finetune.py
lit-jax train --config configs/clip_finetune.py --config.data.train tfds:NAME/train --workdir DIR
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Data are filled in on the command line."""
    c = ConfigDict()
    c.seed = 0
    c.steps = 20_000
    c.batch_size = 4_096  # pairs, over all devices
    c.micro_batch = 1_024  # pairs in memory at once; every pair is compared with all of the batch
    c.loss = "softmax"
    c.cache = False
    c.topology = "v5e:2x4"

    c.model = ConfigDict()
    c.model.vision = "google/vit-base-patch16-224-in21k"
    c.model.text = "google-bert/bert-base-uncased"
    c.model.vision_config = {"model_type": "vit", "image_size": 224, "patch_size": 16}  # The base sizes.
    c.model.text_config = {
        "model_type": "bert",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    c.model.lock = "UU"
    c.model.projection_dim = 768
    c.model.vision_pooling = "pooler"
    c.model.max_logit_scale = 100.0
    c.model.dtype = "bfloat16"
    c.model.locked_dtype = "bfloat16"
    c.model.remat = "products"
    c.model.unroll = 1

    c.data = ConfigDict()
    c.data.train = ""
    c.data.test = ""
    c.data.text_length = 32  # tokens
    c.data.augment = "none"

    c.optim = ConfigDict()
    c.optim.name = "adamw"
    c.optim.mu_dtype = "bfloat16"
    c.optim.schedule = "cosine"
    c.optim.peak_lr = 1e-4
    c.optim.warmup_steps = 1_000
    c.optim.weight_decay = 0.1
    c.optim.lr_multipliers = (("vision/.*", 0.1),)
    c.optim.clip_norm = 1.0

    c.mesh = ConfigDict()
    c.mesh.data = -1
    c.mesh.fsdp = 1

    c.log_every = 50  # steps
    c.eval_every = 5_000  # steps
    c.save_every = 1_000  # steps
    c.keep = 3
    return c
