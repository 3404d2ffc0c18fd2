"""The page of `lit-jax demo` for the model in models/."""

import os
from pathlib import Path

from lit_jax.inference.embedder import Embedder
from lit_jax.tools.demo.server import serve

if __name__ == "__main__":
    serve(
        Embedder(next(Path("models").iterdir())),
        host="0.0.0.0",
        port=int(os.environ.get("PORT", "7860")),
        allow_hosts=[os.environ.get("SPACE_HOST", "localhost")],  # The Hub sets this variable.
    )
