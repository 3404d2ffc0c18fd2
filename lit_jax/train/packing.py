"""Token packing in training: which batches have texts that share rows, and what a config needs for it."""

import dataclasses
import logging

import numpy as np
from jax.sharding import Mesh

from lit_jax.config import TrainConfig
from lit_jax.data.packing import place
from lit_jax.models.dual_encoder import encoder_of
from lit_jax.models.layers.packing import SOURCE, TARGET, rows_for
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.typing import Batch

log = logging.getLogger(__name__)


@dataclasses.dataclass
class Packer:
    """`pack(batch) -> batch` with the places of its texts' tokens, in groups of `texts` texts.

    If a batch does not fit into the rows, some tokens get no place, and the step computes it with a row for each text;
    the first such batch gives a warning.
    """

    texts: int
    share: float
    warned: bool = False

    def __call__(self, batch: Batch) -> Batch:
        given = batch["texts"]
        mask = given["attention_mask"] != 0
        flat, rows = mask.reshape(-1, self.texts, mask.shape[-1]), rows_for(self.texts, self.share)
        places = [place(group, rows) for group in flat]
        source, target = (np.concatenate(arrays).reshape(mask.shape) for arrays in zip(*places, strict=True))
        if not self.warned and not np.array_equal(target >= 0, mask):
            self.warned = True
            log.warning(
                "the texts of a batch do not fit into model.text_rows=%s of its rows: such batches are computed with a "
                "row for each text, which takes longer; raise it if there are many (lit-jax inspect --tokenizer)",
                self.share,
            )
        return {**batch, "texts": {**given, SOURCE: source, TARGET: target}}


def packer_of(config: TrainConfig, mesh: Mesh) -> Packer | None:
    """The packer for the batches of a process; None if `config` gives each text a row, or the step no texts."""
    share = config.model.text_rows
    if share == 1 or "text" in config.cached:
        return None
    pairs = (config.micro_batch or config.batch_size) // mesh.size  # Pairs on a device at a time.
    return Packer(pairs * config.data.captions_per_image, share)


def check_shares_rows(share: float, text_type: str) -> None:
    """Raises ConfigError if texts are configured to share rows of a type of tower that cannot keep them apart."""
    if share < 1 and not encoder_of("text", text_type).shares_rows:
        raise ConfigError(
            f"config.model.text_rows={share} lets texts share rows, which the layers of a {text_type} do not keep "
            "apart: set it to 1"
        )
