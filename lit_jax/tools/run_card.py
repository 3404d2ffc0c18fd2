"""What the model card of a run says: its towers, data, recipe and results."""

import dataclasses
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lit_jax.data.transforms.tokenizer import makes_mask
from lit_jax.evals.retrieval import Retrieved, chance
from lit_jax.hf import hub
from lit_jax.hf.model_card import Card, Data, Evaluation, Tower, model_card
from lit_jax.models.composites import COMPOSITES, MODEL_TYPE
from lit_jax.train.trained import TrainedModel
from lit_jax.utils.errors import DataError
from lit_jax.utils.names import LOCK_WORDS, TEST_PREFIX, TRAINED
from lit_jax.workdir.bucket import Workdir
from lit_jax.workdir.files import METRICS, RANKS
from lit_jax.workdir.metrics import read_rows

log = logging.getLogger(__name__)

UNKNOWN = "unknown"
TASKS = {"retrieval": "image-text retrieval", "zero_shot": "zero-shot-image-classification"}


@dataclasses.dataclass(frozen=True)
class About:
    """What a model card says that the run does not know. If a field is None, the card says what the config says."""

    name: str | None = None
    license: str = UNKNOWN  # An identifier of the Hub, for the model as a whole.
    license_name: str | None = None  # Its name, where the identifier is "other".
    vision: str | None = None
    vision_license: str = UNKNOWN
    text: str | None = None
    text_license: str = UNKNOWN
    data: str | None = None
    data_license: str = UNKNOWN
    data_description: str = ""
    data_hub_id: str | None = None
    limitations: tuple[str, ...] = ()
    measured: Sequence[Mapping[str, Any]] = ()  # Results of `evaluate`.


NOTHING_MORE = About()


class Results(NamedTuple):
    """The first and last evaluation of a run, {} if there is none, and what a random ranker would reach in the last."""

    before: dict[str, float]
    after: dict[str, float]
    chance: dict[str, float] | None


UNTESTED = Results({}, {}, None)


def results(workdir: Workdir) -> Results:
    """The evaluations of a run, from its metrics and the ranks beside them; no source is opened."""
    tested = []
    for row in read_rows(workdir / METRICS):
        values = {
            name.removeprefix(TEST_PREFIX): value
            for name, value in row.items()
            if name.startswith(TEST_PREFIX) and value is not None
        }
        if values:
            tested.append((row["step"], values))
    if not tested:
        return UNTESTED
    (_, before), (last, after) = tested[0], tested[-1]
    return Results(before, after, _chance(workdir, last))


def _chance(workdir: Workdir, step: int) -> dict[str, float] | None:
    path = workdir / RANKS / f"step_{step}.npz"
    try:
        ranks = Retrieved.load(path) if path.is_file() else None
    except DataError as error:
        log.warning("%s; the model card does not say what chance gives", error)
        return None
    return chance(ranks.text_image, len(ranks)) if ranks else None


def card_of(
    run: TrainedModel,
    tested: Results,
    about: About,
    name: str,
    layout: str,
    repo_id: str | None,
) -> str:
    """The card of `run`; `name` is its title, and `repo_id` where it will be published, if anywhere."""
    m, d, config = run.config.model, run.config.data, run.module.config
    vision, text = (TRAINED[letter] for letter in m.lock_towers)
    specs = [d.train] if isinstance(d.train, str) else [spec for spec, _ in d.train]
    evaluations = []
    if tested.after:
        evaluations.append(
            Evaluation(
                task=TASKS["retrieval"],
                data=about.data or d.test,
                split=d.test.rpartition("/")[2],
                after=tested.after,
                before=tested.before if tested.before is not tested.after else None,
                chance=tested.chance,
            )
        )
    for result in about.measured:
        evaluations += [_evaluation(result, task) for task in result["metrics"]]
    card = Card(
        name=about.name or name,
        license=about.license,
        license_name=about.license_name,
        vision=_tower(
            about.vision, about.vision_license, run.config.init_from or m.vision, config.vision_type, vision
        ),
        text=_tower(about.text, about.text_license, run.config.init_from or m.text, config.text_type, text),
        data=Data(
            about.data or " + ".join(specs),
            about.data_license,
            about.data_description,
            about.data_hub_id or next(filter(None, map(_dataset, specs)), None),
        ),
        recipe={k: v for k, v in dataclasses.asdict(run.config).items() if k != "wandb"} | _weights(run),
        evaluations=evaluations,
        limitations=about.limitations,
        layout=layout,
        model_class=COMPOSITES[config.model_type if layout == "hf" else MODEL_TYPE].architecture,
        masked=makes_mask(run.processor.tokenizer),
        readers=(config.readers["vision"], config.readers["text"]),
        widths=config.matryoshka,
        repo_id=repo_id,
    )
    return model_card(card)


def _weights(run: TrainedModel) -> dict[str, str]:
    """Which weights the model has, if the run keeps their average; else {}."""
    if not run.config.optim.ema:
        return {}
    return {"weights": "those of the last step" if run.raw else "their moving average (optim.ema)"}


def _tower(name: str | None, license: str, source: str, model_type: str, training: str) -> Tower:
    from_hub = source and training != LOCK_WORDS["u"] and hub.is_id(source)
    return Tower(name or source or model_type, license, training, source if from_hub else None)


def _dataset(spec: str) -> str | None:
    """The dataset of the Hub that a source reads, if it reads one."""
    match = re.search(r"hf://datasets/([\w.-]+/[\w.-]+)", spec)
    return match and match[1]


def _evaluation(result: Mapping[str, Any], task: str) -> Evaluation:
    data = str(result["data"])
    return Evaluation(
        task=TASKS.get(task, task),
        data=data,
        split=data.rpartition("/")[2],
        after=result["metrics"][task],
        chance=result["chance"][task],
        intervals=result["intervals"][task],
        level=result["bootstrap"]["level"],
        protocol=result["fingerprints"][task],
        data_hub_id=_dataset(data),
    )
