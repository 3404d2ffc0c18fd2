"""Image processors whose resized pictures can be stored, for pictures of 32 pixels."""

from lit_jax.hf import image_processors
from lit_jax.utils._transformers import transformers

_SQUARE = {"height": 32, "width": 32}
_WIDE = {"height": 24, "width": 48}

PROCESSORS = {
    "square": transformers.ViTImageProcessorPil(size=_SQUARE),
    "SigLIP": transformers.SiglipImageProcessorPil(size=_SQUARE),
    "short edge": transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=_SQUARE),
    "larger short edge": transformers.BitImageProcessorPil(size={"shortest_edge": 36}, crop_size=_SQUARE),
    "odd margins": transformers.CLIPImageProcessorPil(size={"shortest_edge": 37}, crop_size=_SQUARE),
    "odd margins, as open_clip": image_processors.half_even_crop()(
        size={"shortest_edge": 37}, crop_size=_SQUARE
    ),
    "larger square": transformers.DeiTImageProcessorPil(size={"height": 36, "width": 36}, crop_size=_SQUARE),
    "wide": transformers.ViTImageProcessorPil(size=_WIDE),
    "DINOv3": image_processors.OURS["DINOv3ViTImageProcessor"]()(size=_SQUARE),
    "large ConvNeXt": transformers.ConvNextImageProcessorPil(size={"shortest_edge": 384}),
}
