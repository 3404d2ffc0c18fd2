"""VisionTextDualEncoderModel, with the interface of transformers' classes: Flax in version 4, PyTorch in version 5."""

import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from lit_jax.config import ModelConfig
from lit_jax.hf import hub, load, save
from lit_jax.hf.facade import pretrained
from lit_jax.hf.facade.casts import cast
from lit_jax.hf.facade.forward import features, forward
from lit_jax.hf.facade.inputs import check_key, images_of, texts_of
from lit_jax.hf.facade.keywords import Heads, join_by_keywords
from lit_jax.hf.facade.outputs import VisionTextDualEncoderOutput, tower_output
from lit_jax.hf.publish import MESSAGE, publish
from lit_jax.models.dual_encoder import DualEncoder, DualEncoderConfig, init_params
from lit_jax.models.layers.spec import Compute
from lit_jax.utils._transformers import transformers
from lit_jax.utils.arguments import number
from lit_jax.utils.errors import ConfigError, WeightError
from lit_jax.utils.typing import Params

VisionTextDualEncoderConfig = transformers.VisionTextDualEncoderConfig


class VisionTextDualEncoderModel:
    """A dual encoder with its weights: call it on token ids and NCHW pixels.

    Equals transformers' class of that name (both the PyTorch one and the Flax one of version 4), except that a zero
    embedding stays zero here and becomes NaN there. Inputs and outputs are jax.Array; `module` and `params` are those
    of `lit_jax.load`.
    """

    def __init__(
        self,
        config: "VisionTextDualEncoderConfig",
        input_shape: tuple | None = None,
        seed: int = 0,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        """Random weights from `seed`. `input_shape` is accepted for old code, and ignored."""
        module = DualEncoder(DualEncoderConfig.from_hf(config.to_dict()), Compute(dtype=dtype))
        self._fill(module, init_params(module, seed), config)

    def _fill(self, module: DualEncoder, params: Params, config: Any) -> None:
        self.module, self.params, self.config = module, params, config

    @classmethod
    def _of(cls, module: DualEncoder, params: Params, config: Any = None) -> "VisionTextDualEncoderModel":
        model = cls.__new__(cls)
        save.check_readers(module.config)
        stored = module.config.to_hf() | {"model_type": module.config.model_type}
        model._fill(module, params, config or transformers.AutoConfig.for_model(**stored))
        return model

    @classmethod
    def from_pretrained(
        cls,
        folder_or_id: str | Path,
        config: Any = None,
        *,
        dtype: DTypeLike = jnp.float32,
        revision: str | None = None,
        token: str | None = None,
        subfolder: str = "",
        allow_pickle: bool = False,
        **keywords: Any,
    ) -> "VisionTextDualEncoderModel":
        """The model in a folder or under a Hub id: see `lit_jax.load`. A `config`, if given, must equal the stored one.

        Further keywords are those of transformers: `cache_dir`, `local_files_only` and `force_download` say how the Hub
        is asked; `logit_scale_init_value` changes the config, and not the weights; others are accepted if they ask for
        what happens anyway (`from_pt`), and otherwise refused with a reason. Raises WeightError or ConfigError.
        """
        given = pretrained.of_from_pretrained(keywords)
        folder = hub.find(
            folder_or_id,
            revision=revision,
            token=token,
            subfolder=subfolder,
            allow_pickle=allow_pickle,
            **given.download,
        )
        module, params = load.load(folder, dtype=dtype, allow_pickle=allow_pickle)
        if config is not None and DualEncoderConfig.from_hf(config.to_dict()) != module.config:
            raise WeightError(
                f"the given config is not that of {folder_or_id}; leave it out to use the stored one"
            )
        changed = given.config_of(module.config)
        if changed != module.config:
            module, config = DualEncoder(changed, module.compute), None
        return cls._of(module, params, config)

    @classmethod
    def from_vision_text_pretrained(
        cls,
        vision_model_name_or_path: str | Path | None = None,
        text_model_name_or_path: str | Path | None = None,
        *,
        projection_dim: int | None = None,
        projections: str = "keep",
        logit_scale_init_value: float = 2.6592,
        seed: int = 0,
        dtype: DTypeLike = jnp.float32,
        token: str | None = None,
        allow_pickle: bool = False,
        **towers: Any,
    ) -> "VisionTextDualEncoderModel":
        """Two pretrained towers under new projections: see `lit_jax.from_towers`.

        Keywords that begin with `vision_` or `text_` go to that tower: `model`, a ready-made one instead of a name
        (anything with `save_pretrained`, such as a PyTorch model of transformers or one of ours); `config`, a config
        or dict instead of the stored one; `revision`; `subfolder`; `pooling`; or any field of its config
        (`text_hidden_dropout_prob=0.2`). Raises ConfigError for any other keyword.
        """
        model = ModelConfig(
            "",
            "",
            logit_scale_init=number(logit_scale_init_value, "logit_scale_init_value"),
            allow_pickle=allow_pickle,
        )
        names = {"vision": vision_model_name_or_path, "text": text_model_name_or_path}
        heads = Heads(projection_dim, projections)
        loaded = join_by_keywords(
            model, names, towers, heads, seed=seed, compute=Compute(dtype=dtype), token=token
        )
        return cls._of(loaded.module, jax.tree.map(jnp.asarray, loaded.params))

    def save_pretrained(
        self,
        folder: str | Path,
        params: Params | None = None,
        *,
        max_shard_size: int | str = "5GB",
        push_to_hub: bool = False,
        repo_id: str | None = None,
        token: str | None = None,
        commit_message: str = MESSAGE,
        **keywords: Any,
    ) -> None:
        """Writes config.json and model.safetensors as transformers 4.57 and 5 read them.

        `commit_message` is for `push_to_hub`. Other keywords of transformers are accepted if they ask for what happens
        anyway (`safe_serialization=True`). Raises ConfigError for any other, and WeightError for towers that
        transformers' class cannot hold: see `lit_jax.save`.
        """
        pretrained.check_save_pretrained(keywords)
        save.save(folder, self.module, params or self.params, max_shard_size=max_shard_size)
        if push_to_hub:
            name = repo_id or Path(folder).name
            publish(folder, name, overwrite=True, token=token, message=commit_message)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = MESSAGE,
        private: bool = False,
        revision: str | None = None,
        token: str | None = None,
        **keywords: Any,
    ) -> str:
        """Uploads what `save_pretrained` writes to `owner/name` on the Hub, and returns the address.

        As in transformers, a repository that does not exist is created, and a model in it is replaced. Raises
        ConfigError: see `lit_jax.publish`, and for further keywords as `save_pretrained` does.
        """
        pretrained.check_push_to_hub(keywords)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return publish(
                folder,
                repo_id,
                private=private,
                revision=revision,
                message=commit_message,
                overwrite=True,
                token=token,
            )

    def to_bf16(self, params: Params | None = None, mask: Any = None) -> Params:
        """`params` (the model's, if None) in bfloat16, as a new tree: `model.params = model.to_bf16()`.

        `mask` is a tree of bools for the same params, here and below: a leaf whose bool is False stays as it is.
        """
        return cast(params or self.params, jnp.bfloat16, mask)

    def to_fp16(self, params: Params | None = None, mask: Any = None) -> Params:
        """`params` (the model's, if None) in float16, as a new tree."""
        return cast(params or self.params, jnp.float16, mask)

    def to_fp32(self, params: Params | None = None, mask: Any = None) -> Params:
        """`params` (the model's, if None) in float32, as a new tree."""
        return cast(params or self.params, jnp.float32, mask)

    def __call__(
        self,
        input_ids: ArrayLike,
        pixel_values: ArrayLike,
        attention_mask: ArrayLike | None = None,
        position_ids: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
        params: Params | None = None,
        dropout_rng: jax.Array | None = None,
        train: bool = False,
        return_loss: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        interpolate_pos_encoding: bool = False,
        pixel_attention_mask: ArrayLike | None = None,
        spatial_shapes: ArrayLike | None = None,
    ) -> VisionTextDualEncoderOutput | tuple:
        """Similarities of T texts and B images.

        input_ids, attention_mask, position_ids, token_type_ids: [T N]; pixel_values: [B C S1 S2] as the processor
        returns them, or [B S1 S2 C]; for SigLIP 2 (NaFlex) also [B N P*P*C] with spatial_shapes [B 2] and
        pixel_attention_mask [B N]. Returns logits_per_image [B T], logits_per_text [T B], text_embeds [T E] and
        image_embeds [B E] of unit length, and both towers' outputs; with `return_loss` (which needs T == B) also CLIP's
        symmetric cross-entropy. `train` turns dropout on, drawn from `dropout_rng`. `interpolate_pos_encoding` resizes
        the position tables of towers that otherwise refuse images of another size. `return_dict=False` returns a tuple.
        `output_attentions`, `output_hidden_states` and `return_dict` are by default those of `config`. Raises
        ConfigError.
        """
        texts = texts_of(self.module.config.text, input_ids, attention_mask, position_ids, token_type_ids)
        images = images_of(self.module.config.vision, pixel_values, spatial_shapes, pixel_attention_mask)
        counts = images.shape[0], texts["input_ids"].shape[0]
        if return_loss and counts[0] != counts[1]:
            raise ConfigError(
                f"the loss pairs each text with one image; found {counts[1]} texts and {counts[0]} images"
            )
        check_key(train, dropout_rng)

        def asked(name: str, value: bool | None) -> bool:
            return bool(getattr(self.config, name) if value is None else value)

        loss, logits, text_embeds, image_embeds, text, vision = forward(
            self.module,
            {"params": params or self.params},
            texts,
            images,
            dropout_rng,
            train=train,
            return_loss=return_loss,
            interpolate=interpolate_pos_encoding,
            hidden_states=asked("output_hidden_states", output_hidden_states),
            attentions=asked("output_attentions", output_attentions),
        )
        output = VisionTextDualEncoderOutput(
            loss=loss,
            logits_per_image=logits.T,
            logits_per_text=logits,
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            text_model_output=tower_output(text),
            vision_model_output=tower_output(vision),
        )
        return output if asked("return_dict", return_dict) else output.to_tuple()

    def get_text_features(
        self,
        input_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        position_ids: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
        params: Params | None = None,
        dropout_rng: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """[T N] ids -> projected text features [T E], not normalised."""
        texts = texts_of(self.module.config.text, input_ids, attention_mask, position_ids, token_type_ids)
        check_key(train, dropout_rng)
        variables = {"params": params or self.params}
        return features(self.module, variables, texts, dropout_rng, method="text_features", train=train)

    def get_image_features(
        self,
        pixel_values: ArrayLike,
        params: Params | None = None,
        dropout_rng: jax.Array | None = None,
        train: bool = False,
        interpolate_pos_encoding: bool = False,
        pixel_attention_mask: ArrayLike | None = None,
        spatial_shapes: ArrayLike | None = None,
    ) -> jax.Array:
        """Pixels as in a call of the model -> projected image features [B E], not normalised."""
        images = images_of(self.module.config.vision, pixel_values, spatial_shapes, pixel_attention_mask)
        check_key(train, dropout_rng)
        variables, options = {"params": params or self.params}, {"interpolate": interpolate_pos_encoding}
        return features(
            self.module, variables, images, dropout_rng, method="image_features", train=train, **options
        )


FlaxVisionTextDualEncoderModel = VisionTextDualEncoderModel  # Its name in transformers 4.
