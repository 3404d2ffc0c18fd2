"""What lit_jax writes, read by transformers 4.57.6 in an environment of its own."""

import json
import subprocess
import sys

import numpy as np
import pytest

import lit_jax
from lit_jax.model import VisionTextDualEncoderModel
from lit_jax.processing import save_processor
from tests import tiny

pytestmark = [pytest.mark.slow, pytest.mark.network]

READ = """
import json, sys
import numpy as np, torch
from PIL import Image
from transformers import VisionTextDualEncoderModel, VisionTextDualEncoderProcessor

folder, data, out = sys.argv[1:]
model, info = VisionTextDualEncoderModel.from_pretrained(folder, output_loading_info=True)
processor = VisionTextDualEncoderProcessor.from_pretrained(folder)
rows = [json.loads(line) for line in open(f"{data}/metadata.jsonl")]
inputs = processor(
    images=[Image.open(f"{data}/{row['file_name']}") for row in rows],
    text=[row["captions"][0] for row in rows],
    padding=True, return_tensors="pt",
)
with torch.no_grad():
    outputs = model.eval()(**inputs)
np.savez(out, **{k: v.numpy() for k, v in inputs.items()}, image_embeds=outputs.image_embeds.numpy(),
         text_embeds=outputs.text_embeds.numpy(), logits_per_image=outputs.logits_per_image.numpy())
print(json.dumps({k: sorted(map(str, v)) for k, v in info.items()}))
"""


@pytest.fixture(scope="module")
def python4(tmp_path_factory):
    """The interpreter of a new virtual environment with transformers 4.57.6."""
    folder = tmp_path_factory.mktemp("transformers4")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    packages = ["torch==2.13.0", "transformers==4.57.6", "pillow"]
    subprocess.run([folder / "bin" / "pip", "install", "--quiet", *packages], check=True)
    return folder / "bin" / "python"


@pytest.mark.parametrize("pooling", ["pooler", "cls"])
@pytest.mark.parametrize("vision", [tiny.VIT, tiny.DINOV2 | {"image_size": 32}], ids=["vit", "dinov2"])
def test_transformers_4_reads_every_key_and_computes_the_same(python4, vision, pooling, tmp_path):
    tiny.write_towers(tmp_path, vision=vision)
    tiny.write_pairs(tmp_path / "pairs", n=6)
    module, params = lit_jax.from_towers(tmp_path / "v", tmp_path / "t", vision_pooling=pooling)
    lit_jax.save(tmp_path / "dual", module, params)
    save_processor(tmp_path / "dual", tiny.processor())

    command = [python4, "-c", READ, tmp_path / "dual", tmp_path / "pairs", tmp_path / "out.npz"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert not any(json.loads(done.stdout.splitlines()[-1]).values()), done.stdout
    theirs = np.load(tmp_path / "out.npz")
    inputs = {k: theirs[k] for k in ("input_ids", "attention_mask", "pixel_values")}
    ours = VisionTextDualEncoderModel.from_pretrained(tmp_path / "dual")(**inputs)
    for name, largest in (("image_embeds", 1e-5), ("text_embeds", 1e-5), ("logits_per_image", 1e-4)):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=largest, err_msg=name)
