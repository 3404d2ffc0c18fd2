"""Folders of sentence-transformers as models: a text tower, a Router of pictures and texts, a CLIP in one module."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import normalizers

from lit_jax.data.transforms.tokenizer import set_prompt
from lit_jax.hf import model_folder, peft_adapters, processor_files
from lit_jax.hf.conversions.base import Format, Model
from lit_jax.hf.conversions.dense_layers import NoHeadError, head_of
from lit_jax.hf.conversions.sentence_modules import (
    MODULES,
    ROUTES,
    SETTINGS,
    Modules,
    Route,
    opened,
    settings_of,
)
from lit_jax.hf.model_folder import Tensors
from lit_jax.models import heads
from lit_jax.models.composites import LOGIT_SCALE, OWN_MODEL_TYPE
from lit_jax.models.dual_encoder import encoder_of
from lit_jax.models.encoders import TEXT
from lit_jax.models.encoders.base import first_patch
from lit_jax.models.encoders.hf_config import shown
from lit_jax.utils.errors import WeightError
from lit_jax.utils.typing import Tokenizer


def _read(folder: Path, allow_pickle: bool) -> Model:
    model = opened(folder)
    return Model(_config(folder, model), _tensors(model, allow_pickle))


def _config(folder: Path, model: Modules) -> dict[str, Any]:
    """The config.json of the model, as if transformers or lit_jax had written it. Raises WeightError."""
    if model.whole is not None:
        return model_folder.read_config(model.whole)
    if model.heads is not None:
        return model_folder.read_config(model.heads)
    if not model.is_dual:
        text = _tower(model.routes["text"])
        return text.config | {"text_pooling": text.route.pooling}
    found: dict[str, Any] = {"model_type": OWN_MODEL_TYPE}
    widths = set()
    for tower, name in ROUTES.items():
        config, route, _ = _tower(model.routes[name])
        head, own = _head(route)
        found |= {f"{tower}_config": config, f"{tower}_pooling": route.pooling}
        found[f"{tower}_head"] = {"kind": head.kind, **head.fields}
        widths |= {len(own[key]) for key in ("weight", "out.weight") if key in own}
        read = encoder_of(tower, str(config.get("model_type"))).config_of(config)
        if head.kind == "identity":
            widths.add(read.hidden_size * (2 if route.pooling == "cls_mean" else 1))
        if tower == "vision" and first_patch(read) and route.pooling not in ("pooler", "cls", "last"):
            raise WeightError(
                f"{route.folder} is pooled by {route.pooling} over all its tokens; over a picture's, only the pooler, "
                "cls and lasttoken are read"
            )
    if len(widths) != 1:
        raise WeightError(
            f"the routes of {folder} give vectors of {sorted(widths)} numbers; wanted the same of both"
        )
    return found | {"projection_dim": widths.pop()}


def _tensors(model: Modules, allow_pickle: bool) -> Tensors:
    """The tensors of the model, read on access."""
    if model.whole is not None:
        return Tensors.of(model.whole, allow_pickle=allow_pickle)
    if not model.is_dual:
        return _tower_tensors(model.routes["text"], allow_pickle)
    parts: list[Tensors | dict[str, np.ndarray]] = []
    for tower, name in ROUTES.items():
        if model.heads is not None:
            tensors = Tensors.of(model.routes[name].folder, allow_pickle=allow_pickle)
        else:
            tensors = _tower_tensors(model.routes[name], allow_pickle)
        parts.append(tensors.renamed({key: f"{tower}_model.{key}" for key in tensors}))
        if model.heads is None:
            own = _head(_tower(model.routes[name]).route, allow_pickle)[1]
            parts.append({f"{heads.NAMES[tower]}.{key}": array for key, array in own.items()})
    if model.heads is None:
        return Tensors.joined(*parts, {"logit_scale": np.array(LOGIT_SCALE, np.float32)})
    rest = Tensors.of(model.heads)
    # A pooler that transformers' class does not have is stored with the heads.
    return Tensors.joined(*parts, rest.renamed({key: key.replace("_pooler.", "_model.", 1) for key in rest}))


def text_head(folder: Path, *, allow_pickle: bool) -> tuple[heads.Head, dict[str, np.ndarray]] | None:
    """The Dense layers of a text tower as a head and its tensors; None if there are none. Raises WeightError.

    Intact layers that form no head of ours raise NoHeadError.
    """
    model = opened(folder)
    if model.is_dual or not (route := _tower(model.routes["text"]).route).behind:
        return None
    return _head(route, allow_pickle)


def _tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer with the settings next to it, and with the prompt that goes before every text."""
    model = opened(folder)
    tokenizer, settings = processor_files.tokenizer(model.place("text")), settings_of(model.place("text"))
    longest = settings.get("max_seq_length")
    if isinstance(longest, int) and not isinstance(longest, bool) and longest > 0:
        tokenizer.model_max_length = longest
    if settings.get("do_lower_case") is True:
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise WeightError(f"{model.place('text')} has do_lower_case, which its tokenizer cannot do")
        rest = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *rest])
    if prompt := _prompt(folder):
        set_prompt(tokenizer, prompt)
    return tokenizer


def _prompt(folder: Path) -> str:
    """The default prompt of a folder. Raises WeightError for one that is not a text."""
    path = folder / SETTINGS
    stored = model_folder.read_json(path) if path.is_file() else {}
    name, prompts = stored.get("default_prompt_name"), stored.get("prompts")
    prompt = (prompts.get(name) if isinstance(prompts, dict) and isinstance(name, str) else None) or ""
    if not isinstance(prompt, str):
        raise WeightError(f"{path} has the prompt {shown(prompt)}; wanted a text")
    return prompt


_DECODED = ("bart", "mbart")  # Types whose decoder a Transformer module runs as well.


class _Tower(NamedTuple):
    """A tower as its type computes it: a Dense that is the type's own pooler belongs to it."""

    config: dict[str, Any]
    route: Route
    pooler: dict[str, str]  # The names of the Dense's tensors -> those of the pooler.


def _tower(route: Route) -> _Tower:
    """The tower of a route; LaBSE, for instance, stores BERT's tanh(dense(cls)) as Pooling and Dense."""
    config = peft_adapters.read_config(route.folder)
    if config.get("model_type") in _DECODED:
        raise WeightError(
            f"{route.folder} is a {config['model_type']}, and sentence-transformers would pool the output of its "
            "decoder, which is not implemented; give a folder of transformers, whose encoder is read"
        )
    encoder = TEXT.get(str(config.get("model_type")))
    if encoder is None or "tanh" not in encoder.pooling or not route.ends_with_tanh:
        return _Tower(config, route, {})
    own = config | ({"pooling": "tanh"} if "tanh" in encoder.poolings else {})
    names = {row.jax: row.hf for row in encoder.weights(encoder.config_of(own)).rows}
    pooler = {
        f"linear.{ours}": names[f"pooler/{theirs}"]
        for ours, theirs in (("weight", "kernel"), ("bias", "bias"))
    }
    return _Tower(own, route._replace(pooling="pooler", behind=route.behind[1:]), pooler)


def _tower_tensors(route: Route, allow_pickle: bool) -> Tensors:
    tensors, pooler = peft_adapters.tensors_of(route.folder, allow_pickle=allow_pickle), _tower(route).pooler
    if not pooler:
        return tensors
    dense = route.layers(allow_pickle=allow_pickle)[0].tensors
    ends = tuple(pooler.values())  # A task model puts a prefix before them.
    kept = tensors.renamed({name: name for name in tensors if not name.endswith(ends)})
    return Tensors.joined(kept, {theirs: dense[ours] for ours, theirs in pooler.items()})


def _head(route: Route, allow_pickle: bool = False) -> tuple[heads.Head, dict[str, np.ndarray]]:
    try:
        return head_of(route.layers(allow_pickle=allow_pickle))
    except NoHeadError as error:
        raise NoHeadError(
            f"the layers behind {route.folder} are no head that lit_jax has: {error}"
        ) from error


FORMAT = Format(
    "a model of sentence-transformers",
    lambda folder: (folder / MODULES).is_file(),
    _read,
    lambda folder: processor_files.image_processor(opened(folder).place("vision")),
    _tokenizer,
)
