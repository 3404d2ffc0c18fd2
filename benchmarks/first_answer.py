"""The time to the first answer of `lit-jax classify` on a ViT-B/16 + BERT-base folder, and how much of it is imports.

    python benchmarks/first_answer.py --repeats 3

The command runs as in a shell, with random weights. "imports" are those of the command, which keeps transformers from
importing an installed torch; "imports, torch too" are those of a Python program in this environment. The figures are
the wall clock time of whole processes, measured in turn.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from loading import write_model
from PIL import Image

TARGETS = {"answer": 15.0, "imports": 3.0}  # Seconds on 2 cores.
IMPORTS = """
import lit_jax.commands.classify, lit_jax.inference.search, lit_jax.utils.console
from lit_jax.hf.processor import processor_class
processor_class()
"""
WORDS = "[PAD] [UNK] [CLS] [SEP] a cat dog bird".split()


def write_processor(folder: Path) -> None:
    """A tokenizer of a few words and ViT's image processor."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    from lit_jax.hf.processor import save_processor
    from lit_jax.utils._transformers import transformers

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, model_max_length=512, pad_token="[PAD]", unk_token="[UNK]"
    )
    images = transformers.ViTImageProcessorPil()
    save_processor(folder, transformers.VisionTextDualEncoderProcessor(images, tokenizer))


def seconds(*args: str, **settings: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *args], check=True, stdout=subprocess.DEVNULL, env=os.environ | settings)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model")
        write_processor(folder / "model")
        Image.new("RGB", (640, 480), "teal").save(folder / "picture.jpg")
        command = ["-m", "lit_jax", "classify", str(folder / "picture.jpg")]
        command += ["--model", str(folder / "model"), "--labels", "a cat,a dog,a bird"]
        times: dict[str, list[float]] = {"answer": [], "imports": [], "imports, torch too": []}
        for _ in range(repeats):
            times["imports"].append(seconds("-c", IMPORTS, LIT_JAX_TORCH="0"))
            times["imports, torch too"].append(seconds("-c", IMPORTS))
            times["answer"].append(seconds(*command))
    for what, values in times.items():
        print(
            f"{what}: {statistics.median(values):.1f} s ({', '.join(f'{value:.1f}' for value in values)})"
            + (f"; target: at most {TARGETS[what]:.0f} s" if what in TARGETS else "")
        )


if __name__ == "__main__":
    main()
