"""A name in the form of another library or site is refused with its id on the Hub."""

import pytest

import lit_jax
from lit_jax.hf import hub, hub_names
from lit_jax.utils.errors import WeightError

CLIP = "openai/clip-vit-base-patch32"
NAMES = {
    f"https://huggingface.co/{CLIP}": rf"give its id on the Hub, {CLIP}$",
    f"https://huggingface.co/{CLIP}/tree/main": rf"{CLIP}$",
    f"https://huggingface.co/{CLIP}/blob/main/config.json": rf"{CLIP}$",
    f"https://huggingface.co/{CLIP}/tree/v2": rf"{CLIP} \(with revision='v2' in Python\)$",
    f"hf.co/{CLIP}/": rf"{CLIP}$",
    f"hf://{CLIP}": rf"{CLIP}$",
    f"hf-hub:{CLIP}": rf"{CLIP}$",
    f"hf_hub:{CLIP}": rf"{CLIP}$",
    f"{CLIP}@v2": rf"{CLIP} \(with revision='v2' in Python\)$",
    "./hub/models--openai--clip-vit-base-patch32": rf"{CLIP}$",
    "ViT-L/14@336px": "openai/clip-vit-large-patch14-336$",
    "gs://bucket/model": "it is a URL; copy what is there into a folder, and give that$",
    "./model": "give an existing folder or a Hub id$",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_another_form_is_refused_with_its_id(name):
    with pytest.raises(WeightError, match=rf"model folder \S+ does not exist; .*{NAMES[name]}"):
        lit_jax.load(name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ViT-B/32", f"give its id on the Hub, {CLIP}"),
        ("ViT-H-14-quickgelu", "a name of open_clip; .* an id such as laion/"),
        ("convnext_base_w", "a name of open_clip"),
        ("coca_base", "a name of open_clip"),
        ("coca_roberta-ViT-B-32", "a name of open_clip"),
        ("EVA02-L-14-336", "a name of open_clip"),
        ("PE-Core-L-14-336", "a name of open_clip; .* an id such as timm/PE-Core-"),
        ("vit_base_patch16_224.augreg_in21k", "a name of timm; .* an id such as timm/"),
        ("vitamin_small_224", "a name of timm; .* an id such as timm/"),
        ("hiera_base_224.mae_in1k_ft_in1k", "a name of timm"),
        ("dinov2_vits14_reg", r"a name of torch\.hub; .* such as facebook/"),
    ],
)
def test_a_name_without_an_owner_is_refused_with_where_it_comes_from(name, says, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightError, match=rf"nor available on the Hugging Face Hub: .*; .*{says}"):
        lit_jax.load(name)


@pytest.mark.parametrize("name", [CLIP, "bert-base-uncased", "roberta-base", "owner/vit_base", "gpt2"])
def test_an_id_gets_no_hint(name):
    assert hub.is_id(name) and hub_names.hint(name) == ""
