"""Runs a sentence-transformers folder as its files say, with PyTorch and transformers alone."""

import importlib
import json

import torch
from safetensors.torch import load_file

from lit_jax.utils._transformers import transformers

READERS = {
    "t5": transformers.T5EncoderModel,
    "m2m_100": transformers.models.m2m_100.modeling_m2m_100.M2M100Encoder,
    "marian": transformers.models.marian.modeling_marian.MarianEncoder,
}


def read(path):
    return json.loads(path.read_text())


def modules_of(folder, modality):
    """(kind, folder) of every module of a route."""
    modules = [
        (entry["type"].rpartition(".")[2], folder / entry["path"]) for entry in read(folder / "modules.json")
    ]
    if modules[0][0] != "Router":
        return modules
    router = read(folder / "router_config.json")
    ids = router["structure"][router["parameters"]["route_mappings"][f"(None, '{modality}')"]]
    return [(router["types"][name].rpartition(".")[2], folder / name) for name in ids]


def encode(folder, inputs, modality):
    """The embeddings of `inputs`, which are all texts or all Pillow images."""
    (kind, place), *rest = modules_of(folder, modality)
    assert kind == "Transformer"
    settings = read(place / "sentence_bert_config.json")
    params = settings["modality_config"][modality]
    config = transformers.AutoConfig.from_pretrained(place)
    reader = READERS.get(config.model_type, transformers.AutoModel)
    model, info = reader.from_pretrained(place, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"], info
    if modality == "text":
        header = read(folder / "config_sentence_transformers.json")
        prompt = header["prompts"].get(header["default_prompt_name"], "")
        tokenizer = transformers.AutoTokenizer.from_pretrained(place)
        options = {"padding": True} | settings.get("processing_kwargs", {}).get("text", {})
        batch = tokenizer([prompt + text for text in inputs], truncation=True, return_tensors="pt", **options)
    else:
        images = transformers.AutoImageProcessor.from_pretrained(place, **settings["processor_kwargs"])
        batch = images(inputs, return_tensors="pt")
    with torch.no_grad():
        output = getattr(model.eval(), params["method"])(**batch)
        x = getattr(output, params["method_output_name"])
        for kind, place in rest:
            x = LAYERS[kind](read(place / "config.json"), place, x, batch.get("attention_mask"))
    return x.numpy()


def pooling(config, place, x, mask):
    mask = torch.ones(x.shape[:2], dtype=torch.long) if mask is None else mask
    rows, last = torch.arange(len(x)), x.shape[1] - 1 - mask.flip(1).max(1).indices
    parts = {
        "cls": lambda: x[rows, mask.max(1).indices],
        "mean": lambda: (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True),
        "max": lambda: x.masked_fill(mask[..., None] == 0, float("-inf")).max(1).values,
        "lasttoken": lambda: x[rows, last],
    }
    modes = config["pooling_mode"]
    found = torch.cat([parts[mode]() for mode in ([modes] if isinstance(modes, str) else modes)], 1)
    assert x.shape[2] == config["embedding_dimension"]
    return found


def dense(config, place, x, mask):
    tensors = load_file(place / "model.safetensors")
    layer = torch.nn.Linear(config["in_features"], config["out_features"], config["bias"])
    layer.load_state_dict({name[7:]: tensors[name] for name in tensors if name.startswith("linear.")})
    module, _, name = config["activation_function"].rpartition(".")
    y = getattr(importlib.import_module(module), name)()(layer(x))
    if config.get("use_residual"):
        assert config["in_features"] != config["out_features"]  # Otherwise the residual is the input itself.
        y = y + x @ tensors["residual.weight"].T
    return y


def layer_norm(config, place, x, mask):
    tensors = load_file(place / "model.safetensors")
    return torch.nn.functional.layer_norm(
        x, [config["dimension"]], tensors["norm.weight"], tensors["norm.bias"]
    )


def normalize(config, place, x, mask):
    return torch.nn.functional.normalize(x, dim=-1)


LAYERS = {"Pooling": pooling, "Dense": dense, "LayerNorm": layer_norm, "Normalize": normalize}
