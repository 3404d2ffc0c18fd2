"""Pictures that `prepare --decoded` has stored as pixels: read by copying what the image processor keeps of them."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from lit_jax.data.transforms import bmp
from lit_jax.data.transforms.resized import resized
from lit_jax.utils.typing import ImageProcessor

_MOST_SIZES = 10_000  # At most this many sizes of pictures are remembered.
_MOST_NUMBERS = 1 << 24  # Pixels that three bytes can number.


class DecodedFiles:
    """`files(bytes) -> uint8 [S1, S2, 3]`: what `resized` makes of a file that it only crops; None for other files.

    Threads may share it; a process receives a copy without remembered sizes.
    """

    def __init__(self, image_processor: ImageProcessor) -> None:
        self._image_processor = image_processor
        self._sides = {side for side in dict(image_processor.size or {}).values() if side}
        self._windows: dict[tuple[int, int], bmp.Window | None] = {}

    def __reduce__(self) -> tuple[type, tuple[ImageProcessor]]:
        return DecodedFiles, (self._image_processor,)

    def __call__(self, data: bytes) -> UInt8[np.ndarray, "S1 S2 3"] | None:
        size = bmp.size_of(data)
        if size is None or self._sides.isdisjoint(size):  # Such a picture is resized.
            return None
        if size not in self._windows:
            if len(self._windows) == _MOST_SIZES:
                self._windows.clear()
            self._windows[size] = _window(self._image_processor, *size)
        window = self._windows[size]
        return None if window is None else bmp.read(data, size, window)


def _window(image_processor: ImageProcessor, height: int, width: int) -> bmp.Window | None:
    """The part that is kept of pictures of this size, found in a picture of numbered pixels; None if it is no part."""
    if height * width > _MOST_NUMBERS:
        return None
    numbers = np.arange(height * width, dtype="<u4").reshape(height, width, 1).view(np.uint8)
    numbered = np.ascontiguousarray(numbers[..., :3])  # The number of each pixel as its colour.
    kept = resized(image_processor, Image.fromarray(numbered))
    top, left = divmod(int.from_bytes(kept[0, 0].tobytes(), "little"), width)
    high, wide, _ = kept.shape
    same = np.array_equal(kept, numbered[top : top + high, left : left + wide])
    return (top, left, high, wide) if same else None
