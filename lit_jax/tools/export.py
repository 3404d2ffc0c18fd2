"""Exports a trained run as a Hugging Face folder with a model card, and compares it with PyTorch on request."""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from lit_jax.data.sources.contents import read_record
from lit_jax.data.sources.registry import open_source
from lit_jax.data.transforms.image_files import open_image
from lit_jax.hf import hub, load, programs, save
from lit_jax.hf import processor as processing
from lit_jax.hf.facade.model import VisionTextDualEncoderModel
from lit_jax.hf.model_card import CARD
from lit_jax.hf.publish import Place
from lit_jax.models import heads
from lit_jax.models.dual_encoder import DualEncoder
from lit_jax.tools.run_card import NOTHING_MORE, UNTESTED, About, card_of, results
from lit_jax.train.trained import NEWEST, Which, read_trained
from lit_jax.utils import checksums
from lit_jax.utils._transformers import transformers, without_bars
from lit_jax.utils.atomic import replaced
from lit_jax.utils.errors import ConfigError, DataError, WeightError
from lit_jax.utils.local_folder import name_of, output_folder
from lit_jax.utils.typing import Params
from lit_jax.workdir.bucket import opened, pull
from lit_jax.workdir.files import CONFIG, METRICS, MODEL, RANKS, read_run_config

LARGEST = {"embeddings": 1e-5, "logits": 1e-4}  # Differences between JAX and PyTorch that `verify` allows.


def export(
    workdir: str | Path,
    output: str | Path,
    about: About = NOTHING_MORE,
    *,
    layout: str = "hf",
    max_shard_size: int | str = "5GB",
    which: Which = NEWEST,
    also: Collection[str] = (),
    place: Place | None = None,
) -> Path:
    """Writes a checkpoint of `workdir` (a folder, or gs://BUCKET/FOLDER) into the folder `output`; returns `output`.

    `layout` is as in `lit_jax.save`. The checkpoint is the newest intact one, unless `which` names another. Its weights
    are those that the run evaluates: their average, if it keeps one (`optim.ema`). The folder has weights, configs,
    image processor, tokenizer, a model card with the towers, data, config and metrics of the run and what `about` adds,
    and SHA256SUMS of all files except the card. `also` names other forms in which the towers are written beside the
    weights: see `lit_jax.hf.programs.write`. The folder appears only when it is complete and, if `place` is given,
    only if it may be published there. Raises ConfigError if `output` exists and is not empty, and if a package for
    `also` is not installed; CheckpointError if there is nothing to export; WeightError if the layout is "hf" and
    transformers has no place for a tower, and for a tower that has no such form.
    """
    output = new_folder(output)
    programs.check(also)
    with opened(workdir) as run_place:
        pull(run_place, CONFIG, MODEL, METRICS, RANKS)
        run = read_trained(run_place, step=which.step, raw=which.raw)
        tested = UNTESTED if which.raw else results(run_place)  # The results are those of the average.
    run.processor.tokenizer.model_max_length = run.config.data.text_length  # So texts are cut as in training.

    card = card_of(run, tested, about, name_of(output), layout, place.repo_id if place else None)
    module, params = _folded(run.module, run.params)
    with replaced(output) as draft:
        save.save(
            draft, module, params, run.processor, layout=layout, max_shard_size=max_shard_size, home=output
        )
        programs.write(draft, module, params, run.processor, also)
        (draft / CARD).write_text(card, encoding="utf-8")
        checksums.write(draft, without=[CARD])  # The card may be edited.
        if place:
            place.check(draft)
    return output


def convert(
    model: str | Path,
    output: str | Path,
    *,
    layout: str = "hf",
    max_shard_size: int | str = "5GB",
    also: Collection[str] = (),
    allow_pickle: bool = False,
) -> Path:
    """Writes `model` (the folder or Hub id of a CLIP, for instance) into the folder `output`; returns `output`.

    `layout` is as in `lit_jax.save`, and `also` as in `export`. The folder has weights, configs, processor and
    SHA256SUMS, and no model card, since nothing is known of its training. Raises ConfigError if `output` exists and is
    not empty, or a package for `also` is not installed, and WeightError as `lit_jax.load`, `lit_jax.save` and `export`.
    """
    output = new_folder(output)
    programs.check(also)
    folder = hub.find(model, allow_pickle=allow_pickle)
    loaded = load.read_dual(folder, load.Compute(), allow_pickle=allow_pickle)
    module, params, processor = loaded.module, loaded.params, processing.load_processor(folder)
    with replaced(output) as draft:
        save.save(draft, module, params, processor, layout=layout, max_shard_size=max_shard_size, home=output)
        programs.write(draft, module, params, processor, also)
        checksums.write(draft)
    return output


def new_folder(output: str | Path) -> Path:
    """The folder `output`. Raises ConfigError if it exists and is not empty."""
    output = output_folder(output, "--output")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output} exists and is not an empty folder; choose another --output")
    return output


def _folded(module: DualEncoder, params: Params) -> tuple[DualEncoder, Params]:
    """The model with the standardisation of features folded into the heads, where possible."""
    config, params = module.config, dict(params)
    for tower, name in heads.NAMES.items():
        field = f"{tower}_head"
        head, own = heads.folded(getattr(config, field), params.get(name, {}))
        changed: dict[str, Any] = {field: head}
        config = dataclasses.replace(config, **changed)
        if own:
            params[name] = own
    return DualEncoder(config, module.compute), params


def verify(folder: str | Path, data: str, *, caption: str | None = None, pairs: int = 64) -> dict[str, float]:
    """The largest differences between lit_jax and PyTorch on the first `pairs` pairs of the source `data`.

    `caption` names the feature, column or key of the captions; by default it is detected. Returns {"image_embeds",
    "text_embeds", "logits_per_image"}. Raises DataError for a record without a caption; WeightError if PyTorch reports
    a key that is missing, left over or of another shape, and for a difference above LARGEST; ConfigError if torch is
    not installed.
    """
    if not transformers.utils.is_torch_available():
        raise ConfigError(
            "--verify compares with PyTorch, which is not installed; pip install 'lit_jax[parity]'"
        )
    with without_bars():
        theirs, info = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    wrong = {kind: sorted(map(str, keys)) for kind, keys in info.items() if keys}
    if wrong:
        raise WeightError(f"PyTorch does not read {folder} as it is: {wrong}; export again")
    source, processor = open_source(data, caption=caption), processing.load_processor(folder)
    records = [read_record(source, i) for i in range(min(pairs, len(source)))]
    for i, record in enumerate(records):
        if not record["captions"]:
            raise DataError(
                f"record {i} of {data} has no caption to compare on; give pairs with --verify-data SOURCE"
            )
    inputs = processor(
        images=[open_image(record["image"]) for record in records],
        text=[record["captions"][0] for record in records],
        padding=True,
        truncation=True,
        return_tensors="pt",
    )
    want = theirs.eval()(**inputs)
    ours = VisionTextDualEncoderModel.from_pretrained(folder)
    given: dict[str, Any] = {key: np.asarray(value) for key, value in inputs.items()}
    got: Any = ours(**given)
    names = {"image_embeds": "embeddings", "text_embeds": "embeddings", "logits_per_image": "logits"}
    differences = {
        key: float(np.abs(np.asarray(got[key]) - want[key].detach().numpy()).max()) for key in names
    }
    for key, difference in differences.items():
        if not difference <= LARGEST[names[key]]:
            raise WeightError(
                f"{key} of {folder} differ from PyTorch by {difference:.2e}; wanted at most {LARGEST[names[key]]:.0e}"
            )
    return differences


def test_data(workdir: str | Path) -> tuple[str, str | None]:
    """The source that a run was tested on, and the name of its captions. Raises ConfigError if there is none."""
    with opened(workdir) as place:
        pull(place, CONFIG)
        config = read_run_config(place)
    if not config.data.test:
        raise ConfigError(f"the run in {workdir} has no test data to compare on; give --verify-data SOURCE")
    return config.data.test, config.data.caption or None
