"""The architectures: HF model_type -> Encoder, one table for each tower."""

from lit_jax.models.encoders import (
    albert,
    beit,
    bert,
    chinese_clip_text,
    clip,
    clip_text,
    deberta_v2,
    deit,
    dinov2,
    dinov2_with_registers,
    dinov3_vit,
    distilbert,
    electra,
    ernie,
    modernbert,
    mpnet,
    roberta,
    siglip,
    siglip_text,
    swin,
    swinv2,
    t5,
    vit,
)
from lit_jax.models.encoders.base import Encoder, EncoderOutput

VISION: dict[str, Encoder] = {
    "vit": vit.ENCODER,
    "deit": deit.ENCODER,
    "beit": beit.ENCODER,
    "clip_vision_model": clip.ENCODER,
    "clipseg_vision_model": clip.SEG,
    "siglip_vision_model": siglip.ENCODER,
    "dinov2": dinov2.ENCODER,
    "dinov2_with_registers": dinov2_with_registers.ENCODER,
    "dinov3_vit": dinov3_vit.ENCODER,
    "swin": swin.ENCODER,
    "swinv2": swinv2.ENCODER,
}
TEXT: dict[str, Encoder] = {
    "bert": bert.ENCODER,
    "roberta": roberta.ENCODER,
    "xlm-roberta": roberta.XLM_ROBERTA,
    "camembert": roberta.XLM_ROBERTA,
    "mpnet": mpnet.ENCODER,
    "albert": albert.ENCODER,
    "ernie": ernie.ENCODER,
    "clip_text_model": clip_text.ENCODER,
    "metaclip_2_text_model": clip_text.METACLIP_2,
    "chinese_clip_text_model": chinese_clip_text.ENCODER,
    "siglip_text_model": siglip_text.ENCODER,
    "distilbert": distilbert.ENCODER,
    "electra": electra.ENCODER,
    "deberta-v2": deberta_v2.ENCODER,
    "modernbert": modernbert.ENCODER,
    "t5": t5.ENCODER,
    "mt5": t5.MT5,
    "umt5": t5.UMT5,
}

__all__ = ["TEXT", "VISION", "Encoder", "EncoderOutput"]
