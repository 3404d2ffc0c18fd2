"""A TFDS that cannot import itself whole, as beside a protobuf of another age."""

import os
import subprocess
import sys

from lit_jax.data.sources.tfds_package import tfds

HALF = """
from absl import logging

try:
    from tensorflow_datasets.public_api import *
except Exception as e:
    logging.exception(e)
"""
BROKEN = 'raise TypeError("gencode 6.31.1 runtime 5.29.5\\nsee the guarantees")'


def test_what_keeps_it_from_being_imported_is_told_in_one_sentence(tmp_path):
    package = tmp_path / "tensorflow_datasets"
    package.mkdir()
    (package / "__init__.py").write_text(HALF)
    (package / "public_api.py").write_text(BROKEN)
    done = subprocess.run(
        [sys.executable, "-m", "lit_jax", "inspect", "tfds:imagenette/train"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "lit-jax: tensorflow_datasets cannot be imported: gencode 6.31.1 runtime 5.29.5; "
        "pip install --upgrade protobuf tensorflow-datasets tensorflow-metadata\n"
    )


def test_a_whole_one_is_handed_out():
    assert tfds().features.Image and tfds() is tfds()
