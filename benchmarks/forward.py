"""Embedding pictures and texts: lit_jax against Hugging Face's PyTorch model, ViT-B/16 and BERT-base, on the CPU.

    python benchmarks/forward.py --rounds 9

Ratios are first over second: below 1, lit_jax is faster. This needs torch.
"""

from side_by_side import main

PAIRS = {kind: (("lit_jax", kind), ("HF PyTorch", kind)) for kind in ("image", "text")}

if __name__ == "__main__":
    main(__doc__, PAIRS)
