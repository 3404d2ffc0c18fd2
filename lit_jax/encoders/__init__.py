"""The architectures: HF model_type -> Encoder, one table a tower."""

from lit_jax.encoders import bert, deit, dinov2, roberta, vit
from lit_jax.encoders.base import Encoder, EncoderOutput

VISION: dict[str, Encoder] = {
    "vit": vit.ENCODER,
    "deit": deit.ENCODER,
    "dinov2": dinov2.ENCODER,
}
TEXT: dict[str, Encoder] = {
    "bert": bert.ENCODER,
    "roberta": roberta.ENCODER,
    "xlm-roberta": roberta.XLM_ROBERTA,
    "camembert": roberta.XLM_ROBERTA,
}

__all__ = ["TEXT", "VISION", "Encoder", "EncoderOutput"]
