"""The modules of a sentence-transformers folder (versions 2 to 6): which ones there are, and what their files say."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lit_jax.hf import model_folder
from lit_jax.hf.conversions.dense_layers import ACTIVATIONS, OUTPUT, Layer
from lit_jax.hf.model_folder import Tensors
from lit_jax.models.encoders.hf_config import shown
from lit_jax.models.weight_map import listed
from lit_jax.utils.errors import WeightError
from lit_jax.utils.inside import leads_out

MODULES, ROUTER, SETTINGS = "modules.json", "router_config.json", "config_sentence_transformers.json"
TRANSFORMER = "sentence_bert_config.json"  # The settings of a Transformer, next to its model.
ROUTES = {"vision": "image", "text": "text"}  # Tower -> its modality, which is also the name of its route.
POOLINGS: dict[str, str | tuple[str, ...]] = {  # Our name -> that in the module Pooling.
    "cls": "cls",
    "mean": "mean",
    "max": "max",
    "last": "lasttoken",
    "cls_mean": ("cls", "mean"),
}
_CLASS = re.compile(r"sentence_transformers\.(?:\w+\.)*(\w+)", re.ASCII)
_KNOWN = (
    "Transformer",
    "CLIPModel",
    "Router",
    "Asym",
    "Pooling",
    "Dense",
    "LayerNorm",
    "Dropout",
    "Normalize",
)
_DENSE = {"linear.weight", "linear.bias", "residual.weight"}
_MOST = 100  # The most modules of a folder.
# Before version 5.4, a Pooling had one of these fields for each mode.
_OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


class _Module(NamedTuple):
    kind: str
    folder: Path


class Route(NamedTuple):
    """A tower with the modules behind it."""

    folder: Path  # The folder of its model, in the layout of transformers.
    settings: Mapping[str, Any]  # The settings of the Transformer.
    pooling: str  # Its name in `layers.pooling`.
    behind: tuple[_Module, ...]  # The layers between pooling and Normalize.

    def layers(self, *, allow_pickle: bool = False) -> list[Layer]:
        """Reads the layers. Raises WeightError."""
        return [_layer(module, allow_pickle) for module in self.behind]

    @property
    def ends_with_tanh(self) -> bool:
        """Whether it pools the first token and its first layer is a square Dense with tanh."""
        if self.pooling != "cls" or not self.behind or self.behind[0].kind != "Dense":
            return False
        config = _layer_config(self.behind[0])
        square = config.get("in_features") == config.get("out_features") and config.get("bias", True) is True
        return (
            square and config["activation_function"] == ACTIVATIONS["tanh"] and not config.get("use_residual")
        )


class Modules(NamedTuple):
    """What a folder holds: a `whole` model of transformers with both modalities, or a route for each modality."""

    folder: Path
    whole: Path | None
    routes: Mapping[str, Route]
    heads: Path | None  # If lit_jax wrote the Router: see layouts.sentence_transformers.

    @property
    def is_dual(self) -> bool:
        return self.whole is not None or len(self.routes) == 2

    def place(self, tower: str) -> Path:
        """The folder with the image processor or the tokenizer. Raises WeightError."""
        if self.whole is not None:
            return self.whole
        if ROUTES[tower] not in self.routes:
            raise WeightError(
                f"{self.folder} is a model of sentence-transformers for texts alone; it has no image processor"
            )
        return self.routes[ROUTES[tower]].folder


def opened(folder: Path) -> Modules:
    """What the folder holds. Raises WeightError for modules that are not supported."""
    stored = model_folder.read_tree(folder / MODULES)
    if (
        not isinstance(stored, list)
        or not 0 < len(stored) <= _MOST
        or not all(isinstance(x, dict) for x in stored)
    ):
        raise WeightError(f"{folder / MODULES} is not usable; wanted a list of modules")
    modules = [_module(folder, MODULES, entry.get("type"), entry.get("path")) for entry in stored]
    first = modules[0]
    if first.kind in ("Router", "Asym"):
        return _routed(folder, first.folder, modules[1:])
    settings = settings_of(first.folder)
    modalities = settings.get("modality_config") or {}
    if first.kind == "CLIPModel" or "image" in modalities:
        if any(module.kind != "Normalize" for module in modules[1:]):
            kinds = ", ".join(module.kind for module in modules[1:])
            raise WeightError(
                f"{folder} has behind its model of both modalities: {kinds}; wanted Normalize alone"
            )
        return Modules(folder, first.folder, {}, None)
    return Modules(folder, None, {"text": _route("text", modules)}, None)


def _routed(folder: Path, place: Path, rest: list[_Module]) -> Modules:
    """The routes of a Router. Raises WeightError."""
    stored = model_folder.read_json(place / ROUTER)
    types, structure = stored.get("types"), stored.get("structure")
    if not isinstance(types, dict) or not isinstance(structure, dict) or len(types) > _MOST:
        raise WeightError(f"{place / ROUTER} is not usable; wanted types and structure")
    parameters = stored.get("parameters")
    mapped = parameters.get("route_mappings") if isinstance(parameters, dict) else None
    names = {modality: modality for modality in structure if modality in ROUTES.values()}
    for key, name in (mapped if isinstance(mapped, dict) else {}).items():
        if (match := re.fullmatch(r"\(None, ['\"](\w+)['\"]\)", key)) and isinstance(name, str):
            names[match[1]] = name
    routes = {}
    for modality in ROUTES.values():
        ids = structure.get(names.get(modality, ""))
        if not isinstance(ids, list) or not ids:
            raise WeightError(
                f"{place / ROUTER} has the routes {', '.join(structure)}; wanted one for each of image and text"
            )
        found = [
            _module(place, ROUTER, types.get(name) if isinstance(name, str) else None, name) for name in ids
        ]
        routes[modality] = _route(modality, [*found, *rest])
    path = folder / SETTINGS
    own = model_folder.read_json(path).get("lit_jax") if path.is_file() else None
    ours = isinstance(own, dict) and (folder / "heads" / model_folder.CONFIG).is_file()
    return Modules(folder, None, routes, folder / "heads" if ours else None)


def _route(modality: str, modules: list[_Module]) -> Route:
    """The route. Raises WeightError unless the modules are tower, Pooling, Dense ..., Normalize, in this order."""
    first, rest = modules[0], modules[1:]
    kinds = [module.kind for module in rest if module.kind != "Dropout"]
    order = r"(Pooling )?((Dense|LayerNorm) )*(Normalize )?"
    if first.kind != "Transformer" or not re.fullmatch(order, "".join(f"{kind} " for kind in kinds)):
        raise WeightError(
            f"the {modality} modules of {first.folder} are {', '.join([first.kind, *kinds])}; wanted Transformer, "
            "Pooling, Dense and Normalize, in this order"
        )
    settings = settings_of(first.folder)
    config = settings.get("modality_config")
    params = config.get(modality) if isinstance(config, dict) else {"method": "forward"}
    output = params.get("method_output_name", "last_hidden_state") if isinstance(params, dict) else None
    wanted = "last_hidden_state" if "Pooling" in kinds else "pooler_output"
    if not isinstance(params, dict) or params.get("method") != "forward" or output != wanted:
        raise WeightError(
            f"{first.folder / TRANSFORMER} has for {modality} {shown(params)}; wanted the method forward and its "
            f"output {wanted}"
        )
    pooling = _pooling(rest[0].folder) if "Pooling" in kinds else "pooler"
    behind = tuple(module for module in rest if module.kind in ("Dense", "LayerNorm"))
    return Route(first.folder, settings, pooling, behind)


def _pooling(folder: Path) -> str:
    """The pooling of a module, by our name. Raises WeightError for one that is not among ours."""
    config = model_folder.read_json(folder / model_folder.CONFIG)
    old = tuple(mode for name, mode in _OLD_MODES.items() if config.get(name) is True)
    modes = config.get("pooling_mode", old or "mean")
    modes = (modes,) if isinstance(modes, str) else tuple(modes) if isinstance(modes, list | tuple) else modes
    for name, theirs in POOLINGS.items():
        if modes == ((theirs,) if isinstance(theirs, str) else theirs):
            return name
    wanted = ", ".join(" + ".join(mode) if isinstance(mode, tuple) else mode for mode in POOLINGS.values())
    raise WeightError(f"{folder} has pooling_mode {shown(modes)}; the poolings that are read are: {wanted}")


def _layer(module: _Module, allow_pickle: bool) -> Layer:
    tensors = Tensors.of(module.folder, allow_pickle=allow_pickle)
    if module.kind == "Dense" and ("linear.weight" not in tensors or not tensors.keys() <= _DENSE):
        raise WeightError(
            f"{module.folder} has the tensors {listed(tensors)}; wanted those of a Dense: {listed(_DENSE)}"
        )
    return Layer(module.kind, _layer_config(module), {name: tensors[name] for name in tensors})


def _layer_config(module: _Module) -> dict[str, Any]:
    config = model_folder.read_json(module.folder / model_folder.CONFIG)
    for name in ("module_input_name", "module_output_name"):
        if config.get(name, OUTPUT) != OUTPUT:
            raise WeightError(f"{module.folder} has {name}={shown(config[name])}; wanted {OUTPUT}")
    if module.kind == "Dense":
        activation = config.setdefault("activation_function", ACTIVATIONS["tanh"])
        if not isinstance(activation, str):
            raise WeightError(
                f"{module.folder} has the activation_function {shown(activation)}; wanted a name"
            )
    return config


def settings_of(folder: Path) -> dict[str, Any]:
    """The settings of a Transformer; old versions named the file after the tower."""
    places = [folder / TRANSFORMER, *sorted(folder.glob("sentence_*_config.json"))]
    place = next((path for path in places if path.is_file()), None)
    return {} if place is None else model_folder.read_json(place)


def _module(folder: Path, file: str, kind: Any, path: Any) -> _Module:
    """A module of the list. Raises WeightError for a custom class, and for a folder that is not there."""
    match = _CLASS.fullmatch(kind) if isinstance(kind, str) else None
    if match is None or match[1] not in _KNOWN:
        raise WeightError(
            f"{folder / file} has a module of type {shown(kind)}, which is not read; those that are: "
            f"{', '.join(_KNOWN)}"
        )
    place = folder / path if isinstance(path, str) else folder
    inside = isinstance(path, str) and not Path(path).is_absolute() and ".." not in Path(path).parts
    if not inside or not place.is_dir() or (path not in ("", ".") and leads_out(place, folder)):
        if match[1] in ("Normalize", "Dropout"):  # They have no files, and git keeps no empty folders.
            return _Module(match[1], place)
        raise WeightError(
            f"{folder / file} names the module folder {shown(path)}, which is not there; download it too"
        )
    return _Module(match[1], place)
