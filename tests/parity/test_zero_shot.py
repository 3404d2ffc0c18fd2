"""Zero-shot classification in lit_jax and in PyTorch transformers, from one exported folder and the same pictures."""

import io

import numpy as np
import pytest
from PIL import Image

import lit_jax
from lit_jax.data.sources.registry import open_source
from lit_jax.evals.evaluate import evaluate
from lit_jax.evals.request import EvalConfig
from lit_jax.inference.embedder import Embedder
from lit_jax.utils._transformers import transformers
from tests import tiny

torch = pytest.importorskip("torch")

TEMPLATES = ("a {}", "the {} on white")


def pytorch_logits(folder, pictures, names):
    """CLIP's protocol in plain PyTorch: unit prompts, their mean made a unit again, times the model's scale."""
    model = transformers.VisionTextDualEncoderModel.from_pretrained(folder).eval()
    processor = transformers.VisionTextDualEncoderProcessor.from_pretrained(folder)
    unit = torch.nn.functional.normalize
    with torch.no_grad():
        pixels = processor(images=pictures, return_tensors="pt")
        images = unit(model.get_image_features(**pixels).pooler_output)
        classes = []
        for name in names:
            texts = processor(text=[t.format(name) for t in TEMPLATES], return_tensors="pt", padding=True)
            classes.append(unit(unit(model.get_text_features(**texts).pooler_output).mean(dim=0), dim=0))
        return (model.logit_scale.exp() * images @ torch.stack(classes).T).numpy()


def test_zero_shot_logits_and_predictions_of_an_exported_folder_equal_pytorch(tmp_path):
    module, params = tiny.dual()
    folder = tmp_path / "model"
    lit_jax.save(folder, module, params, tiny.processor())
    spec = tiny.write_pairs(tmp_path / "pairs", labels=True)
    source = open_source(spec)
    records = [source[i] for i in range(len(source))]
    pictures = [Image.open(io.BytesIO(record["image"])).convert("RGB") for record in records]
    want = pytorch_logits(folder, pictures, source.class_names)

    model = Embedder(folder)
    got = model.scale * model.pictures(source) @ model.classes(source.class_names, TEMPLATES).T
    np.testing.assert_allclose(got, want, atol=1e-4, rtol=0)
    assert np.ptp(want, axis=1).min() > 0.1  # The classes differ, so the comparison is not trivial.

    (tmp_path / "templates.txt").write_text("\n".join(TEMPLATES))
    found = evaluate(
        folder, spec, EvalConfig(tasks=("zero_shot",), templates=str(tmp_path / "templates.txt"))
    )
    right = want.argmax(axis=1) == [record["label"] for record in records]
    ranks = np.array(found["queries"]["zero_shot"]["rank"].split(), int)
    np.testing.assert_array_equal(ranks == 1, right)
    assert found["metrics"]["zero_shot"]["top1"] == right.mean()
    np.testing.assert_array_equal(got.argmax(axis=1), want.argmax(axis=1))
