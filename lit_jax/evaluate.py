"""A model on a source: retrieval both ways, and zero-shot classification from class names."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from lit_jax import pretrained, processing
from lit_jax.data import Source, image_batches, open_source, text_batches
from lit_jax.errors import ConfigError, DataError
from lit_jax.evals.prompts import class_embeddings, class_texts, load_templates
from lit_jax.evals.retrieval import chance, retrieval
from lit_jax.evals.zero_shot import chance as zero_shot_chance
from lit_jax.evals.zero_shot import zero_shot
from lit_jax.sharding import check_batch, make_mesh, put_batch
from lit_jax.train_step import Embed, make_embed_step
from lit_jax.typing import Params

log = logging.getLogger(__name__)

TASKS = ("retrieval", "zero_shot")


def evaluate(
    model: str | Path,
    data: str,
    *,
    tasks: Sequence[str] = ("retrieval",),
    templates: str = "name",
    text_length: int | None = None,
    batch_size: int = 64,
    dtype: Any = jnp.float32,
    progress: Callable[[int, int], None] | None = None,
    allow_pickle: bool = False,
) -> dict[str, Any]:
    """Loads `model` (folder or Hub id) and evaluates it on the source `data`.

    Returns {"model", "data", "protocol", "metrics": {task: {...}}, "chance": {task: {...}}}. `text_length` is in
    tokens, by default what the tokenizer states, at most 512. `templates` is a set's name or a file (zero_shot).
    Raises ConfigError, DataError or WeightError.
    """
    if unknown := [task for task in tasks if task not in TASKS]:
        raise ConfigError(f"task {unknown[0]!r} is unknown; wanted some of {', '.join(TASKS)}")
    mesh = make_mesh()
    batch_size = -(-batch_size // mesh.size) * mesh.size
    source = open_source(data)
    if "zero_shot" in tasks:  # What is wrong here is said before the long part.
        names, labels = _labels(source)
        sets = load_templates(templates)
    loaded = pretrained.read_dual(model, pretrained.Compute(dtype=dtype), allow_pickle=allow_pickle)
    processor = processing.load_processor(pretrained.hub.find(model, allow_pickle=allow_pickle))
    length = text_length or min(processor.tokenizer.model_max_length, 512)
    tokenize = processing.make_tokenize(processor.tokenizer, length, loaded.module.config.text.vocab_size)
    decode = processing.make_decode(processor.image_processor)
    embed = make_embed_step(loaded.module, mesh, processing.pixels_of(processor.image_processor), dtype)
    params = jax.device_put(loaded.params)

    images = embed_images(embed, params, source, decode, mesh, batch_size, progress)
    metrics, by_chance = {}, {}
    if "retrieval" in tasks:
        texts, text_image = embed_captions(embed, params, source, tokenize, mesh, batch_size)
        metrics["retrieval"] = retrieval(images, texts, text_image)
        by_chance["retrieval"] = chance(text_image, len(images))
    if "zero_shot" in tasks:
        texts = embed_texts(embed, params, class_texts(names, sets), tokenize, mesh, batch_size)
        metrics["zero_shot"] = zero_shot(images, class_embeddings(texts, templates=len(sets)), labels)
        by_chance["zero_shot"] = zero_shot_chance(len(names))
    protocol = {"text_length": length, "images": len(images), "ties": "lower index first"}
    if "zero_shot" in tasks:
        protocol["templates"] = list(sets)
    return {
        "model": str(model),
        "data": source.spec,
        "protocol": protocol,
        "metrics": metrics,
        "chance": by_chance,
    }


def embed_images(
    embed: Embed,
    params: Params,
    source: Source,
    decode: Callable,
    mesh: Mesh,
    batch_size: int,
    progress: Callable[[int, int], None] | None = None,
) -> Float[np.ndarray, "N E"]:
    """Unit embeddings of all pictures of `source`, in order. Raises DataError for one that cannot be read."""
    check_batch(batch_size, mesh)
    rows = []
    for batch in image_batches(source, decode=decode, batch_size=batch_size):
        images = put_batch({"images": batch["images"]}, mesh)["images"]
        rows.append(np.asarray(embed.images(params, images))[batch["mask"]])
        if progress:
            progress(sum(map(len, rows)), len(source))
    return np.concatenate(rows)


def embed_pooled(
    embed: Embed, params: Params, pooled: Float[np.ndarray, "N Dv"], mesh: Mesh, batch_size: int
) -> Float[np.ndarray, "N E"]:
    """Unit embeddings from outputs of the image tower that were computed earlier."""
    rows = []
    for start in range(0, len(pooled), batch_size):
        some = pooled[start : start + batch_size]
        filled = np.zeros((batch_size, pooled.shape[1]), np.float32)
        filled[: len(some)] = some
        placed = put_batch({"pooled": filled}, mesh)["pooled"]
        rows.append(np.asarray(embed.pooled(params, placed))[: len(some)])
    return np.concatenate(rows)


def embed_texts(
    embed: Embed, params: Params, texts: Sequence[str], tokenize: Callable, mesh: Mesh, batch_size: int
) -> Float[np.ndarray, "M E"]:
    """Unit embeddings of `texts`, in order."""
    check_batch(batch_size, mesh)
    return np.concatenate(
        [
            np.asarray(embed.texts(params, put_batch(batch["texts"], mesh)))[batch["mask"]]
            for batch in text_batches(texts, tokenize=tokenize, batch_size=batch_size)
        ]
    )


def embed_captions(
    embed: Embed, params: Params, source: Source, tokenize: Callable, mesh: Mesh, batch_size: int
) -> tuple[Float[np.ndarray, "M E"], Int[np.ndarray, " M"]]:
    """Unit embeddings of all captions of all records, and the record that each belongs to."""
    captions, owner = captions_of(source)
    return embed_texts(embed, params, captions, tokenize, mesh, batch_size), owner


def captions_of(source: Source) -> tuple[list[str], Int[np.ndarray, " M"]]:
    """Every caption of `source`, in order, and the number of the record that each belongs to."""
    captions = [source[i]["captions"] for i in range(len(source))]
    owner = np.repeat(np.arange(len(captions)), [len(some) for some in captions])
    return [caption for some in captions for caption in some], owner


def _labels(source: Source) -> tuple[tuple[str, ...], np.ndarray]:
    names = source.class_names
    if not names:
        raise DataError(
            f"{source.spec} has no class names; zero-shot classification wants records with a label"
        )
    return names, np.array([source[i]["label"] for i in range(len(source))])
