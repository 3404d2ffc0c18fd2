"""Models that transformers 4.57.6 writes and reads, in an environment of its own: every type that it can hold."""

import json
import subprocess
import sys

import numpy as np
import pytest

import lit_jax
from lit_jax.hf.facade.model import VisionTextDualEncoderModel
from lit_jax.hf.processor import save_processor
from lit_jax.models.encoders import TEXT, VISION
from tests import tiny
from tests.parity.test_dual import PAIRS

pytestmark = [pytest.mark.slow, pytest.mark.network]

HELD = {
    name: (vision, text)
    for name, (vision, text) in PAIRS.items()
    if "4.57" in VISION[vision["model_type"]].exportable and "4.57" in TEXT[text["model_type"]].exportable
} | {
    "vit, rectangles and patches": (tiny.VIT | {"image_size": [24, 20], "patch_size": [8, 4]}, tiny.BERT),
    "beit, rectangles": (tiny.BEIT | {"image_size": [24, 40]}, tiny.BERT),
    "swinv2, rectangles": (tiny.SWINV2 | {"image_size": [32, 48]}, tiny.BERT),
}
# Argument: a folder with pairs.json. Makes random models, and their outputs for random inputs.
WRITE = """
import json, sys
from pathlib import Path
import numpy as np, torch
from transformers import VisionTextDualEncoderConfig, VisionTextDualEncoderModel

root = Path(sys.argv[1])
for name, (vision, text) in json.loads((root / "pairs.json").read_text()).items():
    torch.manual_seed(0)
    config = VisionTextDualEncoderConfig(vision_config=vision, text_config=text, projection_dim=16)
    model = VisionTextDualEncoderModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    model.save_pretrained(root / name / "theirs")
    inputs = {"input_ids": torch.randint(6, 99, (3, 9)), "attention_mask": torch.ones(3, 9, dtype=torch.long)}
    inputs["attention_mask"][1, 5:] = 0
    inputs["input_ids"][1, 5:] = text.get("pad_token_id", 1)
    size = vision["image_size"]
    inputs["pixel_values"] = torch.randn(3, 3, *(size if isinstance(size, list) else [size, size]))
    with torch.no_grad():
        outputs = model(**inputs)
    embeddings = {k: outputs[k].numpy() for k in ("image_embeds", "text_embeds", "logits_per_image")}
    np.savez(root / name / "said.npz", **embeddings, **{k: v.numpy() for k, v in inputs.items()})
"""
# Prints, for each pair, the keys that `ours` lacks or has in excess, and tensors that differ from those of `theirs`.
READ = """
import json, sys
from pathlib import Path
import torch
from transformers import VisionTextDualEncoderModel

root, wrong = Path(sys.argv[1]), {}
for name in json.loads((root / "pairs.json").read_text()):
    if not (root / name / "ours").exists():
        continue
    model, info = VisionTextDualEncoderModel.from_pretrained(root / name / "ours", output_loading_info=True)
    first = VisionTextDualEncoderModel.from_pretrained(root / name / "theirs").state_dict()
    found = [k for kind in info.values() for k in kind]
    same = model.state_dict()
    wrong[name] = found + [k for k, v in first.items() if not torch.equal(v, same[k])]
print(json.dumps(wrong))
"""
PROCESS = """
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
def run4(tmp_path_factory):
    """Runs a script under transformers 4.57.6, in a new virtual environment, and returns its last line as JSON."""
    folder = tmp_path_factory.mktemp("transformers4")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    packages = ["torch==2.13.0", "transformers==4.57.6", "pillow"]
    subprocess.run([folder / "bin" / "pip", "install", "--quiet", *packages], check=True)

    def run(script, *arguments):
        done = subprocess.run(
            [folder / "bin" / "python", "-c", script, *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else None

    return run


def assert_same_outputs(model, said):
    inputs = {k: said[k] for k in ("input_ids", "attention_mask", "pixel_values")}
    ours = model(**inputs)
    for name, largest in (("image_embeds", 1e-5), ("text_embeds", 1e-5), ("logits_per_image", 1e-4)):
        np.testing.assert_allclose(ours[name], said[name], rtol=0, atol=largest, err_msg=name)


@pytest.fixture(scope="module")
def written(run4, tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    (root / "pairs.json").write_text(json.dumps(HELD))
    run4(WRITE, root)
    return root


def test_models_of_transformers_4_give_the_same_numbers_and_go_back_bit_for_bit(run4, written):
    for name in HELD:
        model = VisionTextDualEncoderModel.from_pretrained(written / name / "theirs")
        assert_same_outputs(model, np.load(written / name / "said.npz"))
        model.save_pretrained(written / name / "ours")
    wrong = run4(READ, written)
    assert wrong == {name: [] for name in HELD}


@pytest.mark.parametrize("pooling", ["pooler", "cls"])
@pytest.mark.parametrize("vision", [tiny.VIT, tiny.DINOV2 | {"image_size": 32}], ids=["vit", "dinov2"])
def test_transformers_4_reads_towers_processor_and_numbers(run4, vision, pooling, tmp_path):
    tiny.write_towers(tmp_path, vision=vision)
    tiny.write_pairs(tmp_path / "pairs", n=6)
    module, params = lit_jax.from_towers(tmp_path / "v", tmp_path / "t", vision_pooling=pooling)
    lit_jax.save(tmp_path / "dual", module, params)
    save_processor(tmp_path / "dual", tiny.processor())
    info = run4(PROCESS, tmp_path / "dual", tmp_path / "pairs", tmp_path / "out.npz")
    assert not any(info.values()), info
    assert_same_outputs(
        VisionTextDualEncoderModel.from_pretrained(tmp_path / "dual"), np.load(tmp_path / "out.npz")
    )
