"""lit_jax's train step against Hugging Face's PyTorch model with AdamW: ViT-B/16 + BERT-base, float32, on the CPU.

    python benchmarks/train_step.py --rounds 9
    python benchmarks/train_step.py --only cached --length 16

"locked" trains only the text tower, "unlocked" trains both; "cached" compares lit_jax's locked step with cached image
outputs to the same step without. Ratios are first over second: below 1, the first is faster. This needs torch.
"""

from side_by_side import main

PAIRS = {
    "locked": (("lit_jax", "locked"), ("HF PyTorch", "locked")),
    "unlocked": (("lit_jax", "unlocked"), ("HF PyTorch", "unlocked")),
    "cached": (("lit_jax", "cached"), ("lit_jax", "locked")),
}

if __name__ == "__main__":
    main(__doc__, PAIRS)
