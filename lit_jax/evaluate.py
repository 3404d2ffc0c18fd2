"""A model on a source: retrieval both ways, and zero-shot classification from class names."""

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Int

from lit_jax import pretrained, processing
from lit_jax.data import Source, image_batches, open_source, text_batches
from lit_jax.distributed import fetch, share
from lit_jax.errors import ConfigError, DataError
from lit_jax.evals import bootstrap, presets
from lit_jax.evals import protocol as protocols
from lit_jax.evals.prompts import class_embeddings, class_texts, load_templates
from lit_jax.evals.retrieval import chance, retrieve
from lit_jax.evals.zero_shot import chance as zero_shot_chance
from lit_jax.evals.zero_shot import classify
from lit_jax.sharding import check_batch, make_mesh, put, put_batch
from lit_jax.train_step import Embed, make_embed_step
from lit_jax.typing import Batch, Params

log = logging.getLogger(__name__)

TASKS = ("retrieval", "zero_shot")


def evaluate(
    model: str | Path,
    data: str,
    *,
    tasks: Sequence[str] = ("retrieval",),
    templates: str | None = None,
    preset: str | None = None,
    text_length: int | None = None,
    batch_size: int = 64,
    dtype: Any = jnp.float32,
    progress: Callable[[int, int], None] | None = None,
    allow_pickle: bool = False,
) -> dict[str, Any]:
    """Loads `model` (folder or Hub id) and evaluates it on the source `data`.

    Returns {"model", "data", "bootstrap": {"draws", "level", "seed"}} and, each for every task, "protocol" (all that
    the numbers depend on but the model), "fingerprints" (hashes of the protocols), "metrics", "intervals" (metric ->
    [low, high]), "chance" and "queries" (ranks and labels of every query as text, for `compare`). `text_length` is
    in tokens, by default what the tokenizer states, at most 512. `templates` is a set's name or a file (zero_shot).
    `preset`, a name in `evals.presets`, says what is done to prompts and to pictures, and which templates stand in for
    none; without it class names stand alone and pictures are the image processor's.
    Several processes share the work, and each gets the result.
    Raises ConfigError, DataError or WeightError.
    """
    if unknown := [task for task in tasks if task not in TASKS]:
        raise ConfigError(f"task {unknown[0]!r} is unknown; wanted some of {', '.join(TASKS)}")
    mesh = make_mesh()
    batch_size = -(-batch_size // mesh.size) * mesh.size
    source, chosen = open_source(data), presets.find(preset)
    if "zero_shot" in tasks:  # What is wrong here is said before the long part.
        names, labels = _labels(source)
        sets = load_templates(templates or chosen.templates)
    loaded = pretrained.read_dual(model, pretrained.Compute(dtype=dtype), allow_pickle=allow_pickle)
    processor = processing.load_processor(pretrained.hub.find(model, allow_pickle=allow_pickle))
    length = text_length or min(processor.tokenizer.model_max_length, 512)
    tokenize = processing.make_tokenize(processor.tokenizer, length, loaded.module.config.text.vocab_size)
    image_processor = chosen.image_processor(processor.image_processor)
    decode = processing.make_decode(image_processor)
    embed = make_embed_step(loaded.module, mesh, processing.pixels_of(image_processor), dtype)
    everywhere = NamedSharding(mesh, PartitionSpec())
    params = jax.tree.map(lambda leaf: put(leaf, everywhere), loaded.params)

    images = embed_images(embed, params, source, decode, mesh, batch_size, progress)
    found: dict[str, bootstrap.Result] = {}
    by_chance: dict[str, dict[str, float]] = {}
    special: dict[str, dict[str, Any]] = {}
    if "retrieval" in tasks:
        texts, text_image = embed_captions(embed, params, source, tokenize, mesh, batch_size)
        found["retrieval"] = retrieve(images, texts, text_image)
        by_chance["retrieval"] = chance(text_image, len(images))
        special["retrieval"] = {"texts": len(texts)}
    if "zero_shot" in tasks:
        prompts = [chosen.text(text) for text in class_texts(names, sets)]
        texts = embed_texts(embed, params, prompts, tokenize, mesh, batch_size)
        found["zero_shot"] = classify(images, class_embeddings(texts, templates=len(sets)), labels)
        by_chance["zero_shot"] = zero_shot_chance(len(names))
        special["zero_shot"] = {
            "templates": list(sets),
            "classes": list(names),
            "canonical": chosen.canonical,
        }
    common = {
        "data": source.fingerprint(),
        "images": len(images),
        "image_processor": protocols.preprocessing(image_processor),
        "text_length": length,
        "ties": protocols.TIES,
    }
    protocol = {task: {"task": task, **common, **special[task]} for task in found}
    return {
        "model": str(model),
        "data": source.spec,
        "protocol": protocol,
        "fingerprints": {task: protocols.fingerprint(said) for task, said in protocol.items()},
        "bootstrap": {"draws": bootstrap.DRAWS, "level": bootstrap.LEVEL, "seed": bootstrap.SEED},
        "metrics": {task: bootstrap.estimate(result) for task, result in found.items()},
        "intervals": {
            task: {name: list(ends) for name, ends in bootstrap.intervals(result).items()}
            for task, result in found.items()
        },
        "chance": by_chance,
        "queries": {
            task: {name: " ".join(map(str, row.tolist())) for name, row in vars(result).items()}
            for task, result in found.items()
        },
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
    batches = image_batches(source, decode=decode, batch_size=batch_size, **share())
    return _gathered(
        batches, lambda batch: embed.images(params, batch["images"]), len(source), mesh, progress
    )


def embed_pooled(
    embed: Embed,
    params: Params,
    pooled: Float[np.ndarray, "N Dv"],
    mesh: Mesh,
    batch_size: int,
    progress: Callable[[int, int], None] | None = None,
) -> Float[np.ndarray, "N E"]:
    """Unit embeddings from outputs of the image tower that were computed earlier."""
    mine = share()
    b = batch_size // mine["process_count"]

    def batches() -> Iterable[Batch]:
        for start in range(mine["process_index"] * b, -(-len(pooled) // batch_size) * batch_size, batch_size):
            some = pooled[start : start + b]
            filled = np.zeros((b, pooled.shape[1]), np.float32)
            filled[: len(some)] = some
            index = np.where(np.arange(b) < len(some), np.arange(start, start + b), -1).astype(np.int32)
            yield {"pooled": filled, "index": index}

    return _gathered(
        batches(), lambda batch: embed.pooled(params, batch["pooled"]), len(pooled), mesh, progress
    )


def embed_texts(
    embed: Embed,
    params: Params,
    texts: Sequence[str],
    tokenize: Callable,
    mesh: Mesh,
    batch_size: int,
    progress: Callable[[int, int], None] | None = None,
) -> Float[np.ndarray, "M E"]:
    """Unit embeddings of `texts`, in order."""
    check_batch(batch_size, mesh)
    batches = text_batches(texts, tokenize=tokenize, batch_size=batch_size, **share())
    return _gathered(batches, lambda batch: embed.texts(params, batch["texts"]), len(texts), mesh, progress)


def embed_captions(
    embed: Embed,
    params: Params,
    source: Source,
    tokenize: Callable,
    mesh: Mesh,
    batch_size: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Float[np.ndarray, "M E"], Int[np.ndarray, " M"]]:
    """Unit embeddings of all captions of all records, and the record that each belongs to."""
    captions, owner = captions_of(source)
    return embed_texts(embed, params, captions, tokenize, mesh, batch_size, progress), owner


def captions_of(source: Source) -> tuple[list[str], Int[np.ndarray, " M"]]:
    """Every caption of `source`, in order, and the number of the record that each belongs to."""
    captions = [source[i]["captions"] for i in range(len(source))]
    owner = np.repeat(np.arange(len(captions)), [len(some) for some in captions])
    return [caption for some in captions for caption in some], owner


def _gathered(
    batches: Iterable[Batch],
    embed: Callable[[Batch], jax.Array],
    total: int,
    mesh: Mesh,
    progress: Callable[[int, int], None] | None = None,
) -> Float[np.ndarray, "N E"]:
    """`embed` of this process's and all others' batches: row "index" of `total`, on every process."""
    out, done = np.empty((0, 0), np.float32), 0
    for batch in batches:
        placed = put_batch(batch, mesh)
        rows, index = fetch(embed(placed)), fetch(placed["index"])
        if not done:
            out = np.empty((total, rows.shape[1]), np.float32)
        out[index[index >= 0]] = rows[index >= 0]
        done += int(np.count_nonzero(index >= 0))
        if progress:
            progress(done, total)
    return out


def _labels(source: Source) -> tuple[tuple[str, ...], np.ndarray]:
    names = source.class_names
    if not names:
        raise DataError(
            f"{source.spec} has no class names; zero-shot classification wants records with a label"
        )
    return names, np.array([source[i]["label"] for i in range(len(source))])
