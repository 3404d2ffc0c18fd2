"""JPEGs to 224x224 pixels: images per second and core for each training decoder, against plain Pillow.

    python benchmarks/decode.py --repeats 9 --quality 75 90

"pillow" decodes and resizes bicubically; the others are `train_decode.ImageDecoder` as a run calls it, including its
checks. "decoded" reads the same pictures as stored by `prepare --decoded`, which are larger files. Every repeat runs
all decoders in turn; the figures are medians of the CPU time of one thread. The pictures are synthetic: noise of all
scales with the spectrum of photographs. "difference" is the mean distance to "pillow", in levels out of 255.
"""

import argparse
import importlib.util
import io
import json
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # Nothing here uses an accelerator.
from lit_jax.data.tools.decoded_pictures import decoded_file
from lit_jax.data.transforms.image_files import open_image
from lit_jax.data.transforms.train_decode import make_train_decode
from lit_jax.utils._transformers import transformers

TARGET = 2.5
SIDE = 224
PROCESSOR = transformers.ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}, resample=3)


def photograph(seed: int, width: int = 640, height: int = 480) -> Image.Image:
    """Noise whose amplitude falls with frequency to the power 1.2, the mean of photographs (Tolhurst et al., 1992)."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.fft.rfftfreq(width), np.fft.fftfreq(height)))
    spectrum = np.fft.rfft2(rng.standard_normal((3, height, width))) / np.maximum(frequency, 1 / width) ** 1.2
    pixels = np.fft.irfft2(spectrum, (height, width))
    grey = pixels.mean(axis=0)  # The colours of photographs are correlated.
    pixels = 0.3 * pixels + 0.7 * grey
    pixels = 128 + 55 * (pixels - pixels.mean()) / pixels.std()
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0).copy())


def jpeg(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def pillow(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def ways() -> dict[str, Callable[[bytes], np.ndarray]]:
    decoders: dict[str, Callable[[bytes], np.ndarray]] = {"pillow": pillow}
    for how in ("exact", "fast", "turbo"):
        if how != "turbo" or all(map(importlib.util.find_spec, ("simplejpeg", "cv2"))):
            decoders[how] = make_train_decode(PROCESSOR, how)
    decoders["fast, crop_flip"] = make_train_decode(PROCESSOR, "fast", "crop_flip")
    decoders |= {name.replace("fast", "decoded"): way for name, way in decoders.items() if "fast" in name}
    return decoders


def measure(files: list[bytes], repeats: int) -> dict[str, dict[str, float]]:
    """For each decoder: images per second and core, the ratio to "pillow", and the difference."""
    decoders = ways()
    stored = [decoded_file(PROCESSOR, open_image(data)) or data for data in files]
    read = {name: stored if "decoded" in name else files for name in decoders}
    seconds: dict[str, list[float]] = {name: [] for name in decoders}
    for _ in range(repeats):
        for name, decode in decoders.items():
            start = time.thread_time()
            for data in read[name]:
                decode(data)
            seconds[name].append(time.thread_time() - start)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    want = [pillow(data).astype(float) for data in files]
    return {
        name: {
            "images/s/core": round(len(files) / median[name], 1),
            "ratio": round(median["pillow"] / median[name], 2),
            "difference": round(
                float(np.mean([abs(decode(d) - w).mean() for d, w in zip(read[name], want, strict=True)])), 2
            ),
        }
        for name, decode in decoders.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=9, help="rounds of all decoders (default: 9)")
    parser.add_argument("--images", type=int, default=24, help="number of pictures (default: 24)")
    parser.add_argument(
        "--quality", type=int, nargs="+", default=[75, 90], help="qualities of the JPEGs (default: 75 90)"
    )
    args = parser.parse_args()
    if min(args.repeats, args.images) < 1:
        parser.error("--repeats and --images must be at least 1")
    for quality in args.quality:
        files = [jpeg(photograph(seed), quality) for seed in range(args.images)]
        result = measure(files, args.repeats)
        size = sum(map(len, files)) / len(files) / 1000
        print(f"640x480, quality {quality}, {size:.0f} kB per file")
        print(json.dumps(result, indent=2))
        best = max(row["ratio"] for name, row in result.items() if name in ("fast", "turbo"))
        print(f"fastest: {best} x pillow, target {TARGET}: {'met' if best >= TARGET else 'missed'}")


if __name__ == "__main__":
    main()
