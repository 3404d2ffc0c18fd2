"""Keywords of transformers' `from_pretrained`, `save_pretrained` and `push_to_hub`: taken, or refused with a reason."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from lit_jax.models.dual_encoder import DualEncoderConfig
from lit_jax.utils.errors import ConfigError, WeightError

_DOWNLOAD = ("cache_dir", "local_files_only", "force_download")
_CONFIG = ("projection_dim", "logit_scale_init_value")


class Agreed(NamedTuple):
    """The values of a keyword that ask for what happens anyway, and what another one does or would do."""

    values: tuple[Any, ...]
    why: str


_ANY = (None, False, True)
_OFF, _ON = (None, False), (None, True)
_NO_PICKLE = Agreed(_ON, "writes a pickle, which lit_jax never does: leave it out")
_LOAD = {
    "from_pt": Agreed(_ANY, ""),  # A folder is read whatever framework wrote it.
    "from_flax": Agreed(_ANY, ""),
    "low_cpu_mem_usage": Agreed(_ANY, ""),
    "weights_only": Agreed(_ON, "would run a pickle as code, which lit_jax never does: leave it out"),
    "use_safetensors": Agreed(
        _ON, "is not possible: safetensors are read where there are any, and a pickle with allow_pickle=True"
    ),
    "trust_remote_code": Agreed(
        _OFF, "would run code of the model's folder, which lit_jax never does: leave it out"
    ),
    "ignore_mismatched_sizes": Agreed(
        _OFF,
        "would replace weights in silence: leave it out, and make new projections with "
        "from_vision_text_pretrained(FOLDER, FOLDER, projections='new')",
    ),
    "output_loading_info": Agreed(
        _OFF,
        "has nothing to tell: every tensor is used once, or an error names those that are not; leave it out",
    ),
    "_do_init": Agreed(_ON, "is lit_jax.load(FOLDER) here, which returns the module and its params"),
    "torch_dtype": Agreed((None,), "is dtype= here, for the arithmetic; model.to_bf16() casts the params"),
    "variant": Agreed(
        (None,), "is not read: only weights without a variant in their names are; leave it out"
    ),
    "device_map": Agreed((None,), "is not read: move model.params with jax.device_put"),
}
_SAVE = {
    "safe_serialization": _NO_PICKLE,
    "is_main_process": Agreed(_ON, "saves nothing: call it in the main process alone"),
    "state_dict": Agreed((None,), "is params= here, a tree as model.params"),
    "variant": Agreed((None,), "is not written: weights have their usual names; leave it out"),
}
_PUSH = {
    "safe_serialization": _NO_PICKLE,
    "create_pr": Agreed(_OFF, "is not possible: revision= commits to a branch of its own"),
    "use_temp_dir": Agreed(_ANY, ""),
    "tags": Agreed((None,), "is not possible: tags belong into the model card, README.md"),
}


class Pretrained(NamedTuple):
    """The keywords of `from_pretrained` that do something: for the download, and for the config."""

    download: dict[str, Any]
    changes: dict[str, Any]

    def config_of(self, config: DualEncoderConfig) -> DualEncoderConfig:
        """`config` with the changes, as in transformers: the weights stay those of the checkpoint.

        Raises WeightError for a width other than theirs, and for a scale that is not a number.
        """
        width = self.changes.get("projection_dim", config.projection_dim)
        if width != config.projection_dim:
            raise WeightError(
                f"projection_dim is {width!r} and that of the model is {config.projection_dim}; projections of another "
                f"width are new: from_vision_text_pretrained(FOLDER, FOLDER, projection_dim={width!r})"
            )
        if "logit_scale_init_value" not in self.changes:
            return config
        checked = DualEncoderConfig.from_hf(config.to_hf() | self.changes)
        return dataclasses.replace(config, logit_scale_init_value=checked.logit_scale_init_value)


def of_from_pretrained(keywords: Mapping[str, Any]) -> Pretrained:
    """Raises ConfigError for a keyword that `from_pretrained` does not take, or not with that value."""
    own = {*_DOWNLOAD, *_CONFIG}
    _check("from_pretrained", {n: v for n, v in keywords.items() if n not in own}, _LOAD, own)
    download, changes = ({n: keywords[n] for n in names if n in keywords} for names in (_DOWNLOAD, _CONFIG))
    return Pretrained(download, changes)


def check_save_pretrained(keywords: Mapping[str, Any]) -> None:
    """Raises ConfigError for a keyword that `save_pretrained` does not take, or not with that value."""
    _check("save_pretrained", keywords, _SAVE)


def check_push_to_hub(keywords: Mapping[str, Any]) -> None:
    """Raises ConfigError for a keyword that `push_to_hub` does not take, or not with that value."""
    _check("push_to_hub", keywords, _PUSH)


def _check(
    method: str, keywords: Mapping[str, Any], known: Mapping[str, Agreed], more: set[str] | None = None
) -> None:
    for name, value in keywords.items():
        if name not in known:
            names = ", ".join(sorted({*known, *(more or ())}))
            raise ConfigError(f"{method} has no argument {name!r}; of transformers' it also takes {names}")
        if not any(value is agreed for agreed in known[name].values):
            raise ConfigError(f"{name}={value!r:.60} {known[name].why}")
