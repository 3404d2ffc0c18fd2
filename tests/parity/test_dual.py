"""The whole dual model against PyTorch, from every entry point."""

import jax
import numpy as np
import pytest
import torch
import transformers

import lit_jax
from lit_jax.hf import model_folder
from lit_jax.hf.facade.model import VisionTextDualEncoderModel
from lit_jax.models.encoders import VISION
from tests import tiny
from tests.parity.conftest import assert_same_layers, randomise
from tests.parity.towers import attentions_of, in_torch, pixels, texts

# Every type that transformers' class can hold, at least once.
PAIRS = {
    "vit + bert": (tiny.VIT, tiny.BERT),
    "dinov2 + bert": (tiny.DINOV2, tiny.BERT),
    "deit + roberta": (tiny.DEIT, tiny.ROBERTA),
    "vit + xlm-roberta": (tiny.VIT, tiny.XLM_ROBERTA),
    "beit + mpnet": (tiny.BEIT, tiny.MPNET),
    "clip + clip text": (tiny.CLIP_VISION, tiny.CLIP_TEXT),
    "siglip + albert": (tiny.SIGLIP_VISION, tiny.ALBERT),
    "dinov2 with registers + camembert": (tiny.DINOV2_REGISTERS, tiny.CAMEMBERT),
    "dinov3 + bert": (tiny.DINOV3, tiny.BERT),
    "vit + ernie": (tiny.VIT, tiny.ERNIE),
    "vit + data2vec text": (tiny.VIT, tiny.DATA2VEC_TEXT),
    "vit + x-mod": (tiny.VIT, tiny.XMOD | {"languages": ["de_DE"]}),
    "vit + big bird": (tiny.VIT, tiny.BIG_BIRD | {"attention_type": "original_full"}),
    "vit + roberta with the norms first": (tiny.VIT, tiny.ROBERTA_PRE_NORM),
    "vit + xlm-roberta xl": (tiny.VIT, tiny.XLM_ROBERTA_XL),
    "vit + megatron bert": (tiny.VIT, tiny.MEGATRON_BERT),
    "vit + rembert": (tiny.VIT, tiny.REMBERT),
    "vit + jina": (tiny.VIT, tiny.JINA),
    "vit + squeezebert": (tiny.VIT, tiny.SQUEEZEBERT),
    "vit + mobilebert": (tiny.VIT, tiny.MOBILEBERT),
    "vit + esm": (tiny.VIT, tiny.ESM),
    "tipsv2 + tipsv2 text": (tiny.TIPSV2_VISION, tiny.TIPSV2_TEXT),
    "vit + longformer": (tiny.VIT, tiny.LONGFORMER),
    "swin + roberta": (tiny.SWIN, tiny.ROBERTA),
    "swinv2 + bert": (tiny.SWINV2, tiny.BERT),
    "hiera + bert": (tiny.HIERA, tiny.BERT),
    "chinese clip + bert": (tiny.CHINESE_CLIP_VISION, tiny.BERT),
    "mlcd + bert": (tiny.MLCD_VISION, tiny.BERT),
    "aimv2 + bert": (tiny.AIMV2_VISION, tiny.BERT),
}
CLS = {name: pair for name, pair in PAIRS.items() if "cls" in VISION[pair[0]["model_type"]].poolings}


def torch_dual(vision, text):
    config = transformers.VisionTextDualEncoderConfig(
        vision_config=vision, text_config=text, projection_dim=16
    )
    return randomise(transformers.VisionTextDualEncoderModel(config))


def torch_load(folder):
    """PyTorch's model from a folder that we wrote; every key must find its place."""
    model, info = transformers.VisionTextDualEncoderModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


def assert_same_models(ours, theirs, size):
    for tower in (theirs.vision_model, theirs.text_model):
        tower.set_attn_implementation("eager")  # Only this one returns attentions.
    images, batch = pixels(size, batch=3), texts()
    nchw = images.transpose(0, 3, 1, 2).copy()
    options = dict(return_loss=True, output_hidden_states=True, output_attentions=True)
    want = theirs(pixel_values=torch.from_numpy(nchw), **in_torch(batch), **options)
    got = ours(pixel_values=nchw, **batch, **options)
    assert list(got.keys()) == [name for name in want.keys() if name in got.keys()]  # noqa: SIM118

    def flat(output):
        towers = {"vision": output.vision_model_output, "text": output.text_model_output}
        found = {
            f"{tower} {kind} {i}": array
            for tower, out in towers.items()
            for kind, arrays in (("hidden_states", out.hidden_states), ("attentions", attentions_of(out)))
            for i, array in enumerate(arrays)
        }
        found |= {f"{tower} pooled": out.pooler_output for tower, out in towers.items()}
        names = ("image_embeds", "text_embeds", "logits_per_image", "logits_per_text", "loss")
        return found | {name: output[name] for name in names}

    assert_same_layers(flat(got), flat(want))
    features = {
        "text features": (
            ours.get_text_features(**batch),
            theirs.get_text_features(**in_torch(batch)).pooler_output,
        ),
        "image features": (
            ours.get_image_features(nchw),
            theirs.get_image_features(torch.from_numpy(nchw)).pooler_output,
        ),
    }
    assert_same_layers({k: a for k, (a, _) in features.items()}, {k: b for k, (_, b) in features.items()})


@pytest.mark.sampled(26)
@pytest.mark.parametrize(("vision", "text"), PAIRS.values(), ids=PAIRS)
def test_an_imported_model_equals_pytorch(vision, text, tmp_path):
    theirs = torch_dual(vision, text)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = VisionTextDualEncoderModel.from_pretrained(tmp_path / "theirs")
    assert_same_models(ours, theirs, vision["image_size"])
    ours.save_pretrained(tmp_path / "ours")
    back = torch_load(tmp_path / "ours").state_dict()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(back[name], tensor), name


@pytest.mark.sampled(26)
@pytest.mark.parametrize(("vision", "text"), PAIRS.values(), ids=PAIRS)
def test_a_fresh_model_exported_and_reloaded_equals_pytorch(vision, text, tmp_path):
    config = lit_jax.VisionTextDualEncoderConfig(vision_config=vision, text_config=text, projection_dim=16)
    ours = VisionTextDualEncoderModel(config, seed=1)
    ours.params = jax.tree.map(jax.numpy.asarray, tiny.randomised(ours.params))
    ours.save_pretrained(tmp_path)
    theirs = torch_load(tmp_path)
    assert_same_models(ours, theirs, vision["image_size"])
    assert_same_models(VisionTextDualEncoderModel.from_pretrained(tmp_path), theirs, vision["image_size"])


@pytest.mark.sampled(21)
@pytest.mark.parametrize(("vision", "text"), CLS.values(), ids=CLS)
def test_a_model_of_two_towers_pooled_by_cls_exports_to_the_same_numbers(vision, text, tmp_path):
    tiny.write_tower(tmp_path / "v", vision)
    tiny.write_tower(tmp_path / "t", text, seed=1)
    ours = VisionTextDualEncoderModel.from_vision_text_pretrained(
        tmp_path / "v", tmp_path / "t", projection_dim=16, vision_pooling="cls"
    )
    ours.save_pretrained(tmp_path / "dual")
    assert_same_models(ours, torch_load(tmp_path / "dual"), vision["image_size"])


def test_towers_that_pytorch_wrote_are_joined_as_pytorch_joins_them(tmp_path):
    for name, hf in (("v", tiny.VIT), ("t", tiny.BERT)):
        config = transformers.AutoConfig.for_model(**hf)
        randomise(transformers.AutoModel.from_config(config)).save_pretrained(tmp_path / name)
    theirs = transformers.VisionTextDualEncoderModel.from_vision_text_pretrained(
        str(tmp_path / "v"),
        str(tmp_path / "t"),
        projection_dim=16,
        vision_attn_implementation="eager",
        text_attn_implementation="eager",
    ).eval()
    ours = VisionTextDualEncoderModel.from_vision_text_pretrained(
        tmp_path / "v", tmp_path / "t", projection_dim=16
    )
    # The only weights that both sides drew at random.
    for head in ("visual_projection", "text_projection"):
        ours.params[head] = {"kernel": jax.numpy.asarray(getattr(theirs, head).weight.detach().numpy().T)}
    assert_same_models(ours, theirs, 32)


def test_cls_pooling_returns_the_raw_cls_token(tmp_path):
    tiny.write_tower(tmp_path / "v", tiny.VIT)
    tiny.write_tower(tmp_path / "t", tiny.BERT)
    module, params = lit_jax.from_towers(tmp_path / "v", tmp_path / "t", vision_pooling="cls")
    images = jax.numpy.asarray(pixels(32))
    output = module.apply({"params": params}, images, method="image_features")[1]
    np.testing.assert_array_equal(output.pooler_output, output.last_hidden_state[:, 0])
    module_pooled, params = lit_jax.from_towers(tmp_path / "v", tmp_path / "t")
    pooled = module_pooled.apply({"params": params}, images, method="pool_images")
    assert np.abs(pooled - output.pooler_output).max() > 0.1


def test_the_gradient_of_the_loss_equals_pytorch_in_every_leaf(tmp_path):
    theirs = torch_dual(tiny.VIT, tiny.BERT)
    theirs.save_pretrained(tmp_path)
    ours = VisionTextDualEncoderModel.from_pretrained(tmp_path)
    images, batch = pixels(32, batch=3), texts()
    nchw = images.transpose(0, 3, 1, 2).copy()
    theirs(pixel_values=torch.from_numpy(nchw), **in_torch(batch), return_loss=True).loss.backward()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(parameter.grad)
    theirs.save_pretrained(tmp_path / "gradients")
    want = dict(model_folder.Tensors.of(tmp_path / "gradients"))
    got = jax.grad(lambda p: ours(pixel_values=nchw, **batch, params=p, return_loss=True).loss)(ours.params)
    from lit_jax.models.dual_encoder import weights

    got = weights(ours.module.config).to_hf(got)
    rounding = 1e-6 * max(float(np.abs(gradient).max()) for gradient in want.values())
    for name, gradient in want.items():
        bound = 1e-4 * float(np.abs(gradient).max()) + rounding
        np.testing.assert_allclose(got[name], gradient, rtol=0, atol=bound, err_msg=name)
