"""LiT on emoji: a DINOv2-shaped ViT-S/14 locked, MiniLM tuned. Minutes on two cores.

lit-jax quickstart --workdir DIR
lit-jax quickstart --workdir DIR --config.seed 1
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Towers and data are filled in by the quickstart itself."""
    c = ConfigDict()
    c.seed = 0
    c.steps = 160
    c.batch_size = 128  # pairs, over all devices
    c.loss = "softmax"
    c.cache = True  # The image tower is locked: each picture goes through it once.

    c.model = ConfigDict()
    c.model.vision = ""
    c.model.text = ""
    c.model.lock = "LU"  # image tower locked, text tower pretrained and tuned
    c.model.lock_rules = (("text/embeddings/.*", "lock"),)  # Half of MiniLM; 1,500 captions cannot better it.
    c.model.projection_dim = 512
    c.model.vision_pooling = "pooler"
    c.model.logit_scale_init = 2.0794  # ln 8
    c.model.max_logit_scale = 100.0
    c.model.dtype = "auto"

    c.data = ConfigDict()
    c.data.train = ""
    c.data.test = ""
    c.data.text_length = 16  # tokens
    c.data.augment = "none"

    c.optim = ConfigDict()
    c.optim.schedule = "cosine"
    c.optim.peak_lr = 1e-3
    c.optim.warmup_steps = 16
    c.optim.weight_decay = 0.1
    c.optim.clip_norm = 1.0
    c.optim.lr_multipliers = (("text/.*", 0.1),)

    c.mesh = ConfigDict()
    c.mesh.data = -1
    c.mesh.fsdp = 1

    c.log_every = 10  # steps
    c.eval_every = 80  # steps
    c.save_every = 40  # steps
    c.keep = 3
    return c
