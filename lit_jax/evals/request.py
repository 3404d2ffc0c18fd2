"""What an evaluation is asked to measure: the caller's settings, and those settings with every name resolved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
from jax.typing import DTypeLike

from lit_jax.data.sources.base import Source
from lit_jax.evals import few_shot
from lit_jax.evals.presets import Preset
from lit_jax.utils.arguments import is_iterable, is_whole, list_of_texts, whole_number
from lit_jax.utils.errors import ConfigError


@dataclass(frozen=True)
class EvalConfig:
    """What `evaluate` measures, and how. The defaults measure retrieval."""

    task: str | None = None  # A benchmark of benchmarks.toml; it sets the data and what is left empty here.
    tasks: Sequence[str] = ()  # Some of TASKS; by default those of the benchmark, else retrieval.
    captions: Sequence[str] = ()  # Columns of captions: one, or one per language for multilingual.
    templates: str | None = None  # zero_shot: the name of a prompt set, or a file.
    class_names: str | None = None  # zero_shot: a file.
    preset: str | None = None  # A name in PRESETS; None: bare class names, the model's own image processor.
    train: str | None = None  # few_shot, linear_probe: the source to learn from.
    shots: Sequence[int] = few_shot.SHOTS  # few_shot: pictures per class.
    seeds: int = few_shot.SEEDS  # few_shot: draws of the shots.
    features: str = "embedding"  # few_shot, linear_probe: one of FEATURES.
    text_length: int | None = None  # Tokens; None: what the tokenizer states, at most 512.
    dim: int | None = None  # How many leading numbers of an embedding are used; None: all.
    batch_size: int = 64
    on_bad_record: str = "error"  # Or "skip": broken records are left out, also of the training source.
    dtype: DTypeLike = jnp.float32  # Dtype of the arithmetic.
    allow_pickle: bool = False  # Whether pytorch_model.bin may be read.

    def __post_init__(self) -> None:
        for name in ("tasks", "captions"):
            object.__setattr__(self, name, tuple(list_of_texts(getattr(self, name), name)))
        if not is_iterable(self.shots) or not all(map(is_whole, self.shots)):
            raise ConfigError(f"shots is {self.shots!r:.60}; want a list of whole numbers")
        whole_number(self.seeds, "seeds")
        if not isinstance(self.task, str | None):
            raise ConfigError(f"task is {self.task!r:.60}; want the name of a set")


RETRIEVAL = EvalConfig()


@dataclass(frozen=True)
class EvalRequest:
    """An EvalConfig on its source, with presets, prompts and the settings of a benchmark filled in."""

    config: EvalConfig
    source: Source
    languages: Mapping[str, Source]  # `source` with each column of captions.
    preset: Preset
    template_set: str  # The name or the file that `templates` were read from.
    templates: tuple[str, ...]
    name_rule: str  # One of `names.RULES`.
    present: bool  # Whether classes without a picture are left out.
    train: Source | None
    named: tuple[str, ...] = ()  # Names of what is measured: the benchmark's and the source's.
