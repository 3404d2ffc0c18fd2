"""The architectures: HF model_type -> Encoder, one table a tower."""

from lit_jax.encoders import bert, dinov2, vit
from lit_jax.encoders.base import Encoder, EncoderOutput

VISION: dict[str, Encoder] = {
    "vit": vit.ENCODER,
    "dinov2": dinov2.ENCODER,
}
TEXT: dict[str, Encoder] = {
    "bert": bert.ENCODER,
}

__all__ = ["TEXT", "VISION", "Encoder", "EncoderOutput"]
