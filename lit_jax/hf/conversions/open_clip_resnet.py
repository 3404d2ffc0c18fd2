"""CLIP's ResNets in open_clip (its ModifiedResNet), as our type `clip_resnet`, which has the same tensor names."""

from collections.abc import Mapping
from typing import Any

from lit_jax.hf.conversions import open_clip_tables as tables
from lit_jax.hf.conversions.base import Part, field, placed
from lit_jax.hf.conversions.renames import same, under
from lit_jax.models.encoders import clip_resnet
from lit_jax.models.encoders.hf_config import shown
from lit_jax.utils.errors import WeightError

_STAGES = 4  # open_clip ignores further ones.


def vision(where: str, cfg: Mapping[str, Any]) -> Part:
    """The tower of a vision_cfg whose `layers` are a list; the projection in its attention pooling becomes the model's.

    open_clip builds this tower from four fields and ignores the others. Raises WeightError.
    """
    depths, width = cfg["layers"], field(where, cfg, "width", 768)
    if len(depths) != _STAGES:
        raise WeightError(
            f"{where}: the layers {shown(depths)} are not usable; wanted a ResNet of {_STAGES} stages, or a ViT's "
            "number"
        )
    hidden_sizes = [clip_resnet.NARROWER * width * 2**stage for stage in range(_STAGES)]
    config = {
        "model_type": "clip_resnet",
        "image_size": field(where, cfg, "image_size", 224),
        "embedding_size": width,
        "hidden_sizes": hidden_sizes,
        "depths": depths,
        "num_attention_heads": hidden_sizes[-1] // field(where, cfg, "head_width", 64),
    }
    part = Part(
        config,
        same(clip_resnet.weights(clip_resnet.ENCODER.config_of(config)).names()),
        dropped=r".*\.num_batches_tracked",
        head={"kind": "linear_bias"},
    )
    part = placed(part, "visual.", "vision_model.")
    return part._replace(rows=part.rows + under(tables.VISION_BIASED_HEAD, "visual.attnpool.c_proj.", ""))
