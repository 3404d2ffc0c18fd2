"""Which row of a text tower each token of a batch gets, so that several short texts share one (token packing).

The longest text goes first, each to the fullest row that has room for it (best fit decreasing: Johnson et al., 1974).
"""

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh

from lit_jax.config import TrainConfig
from lit_jax.models.dual_encoder import encoder_of
from lit_jax.models.layers.packing import SOURCE, TARGET, rows_for
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.typing import Batch

log = logging.getLogger(__name__)


@dataclasses.dataclass
class Packer:
    """`pack(batch) -> batch` with the places of its texts' tokens, in groups of so many `texts`.

    If a batch does not fit into the rows, some tokens get no place, and the step computes it with a row for each text;
    one warning says so.
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
    """For the batches of a process; None if `config` gives each text a row, or no texts to the step."""
    share = config.model.text_rows
    if share == 1 or "text" in config.cached:
        return None
    pairs = (config.micro_batch or config.batch_size) // mesh.size  # Of a device, at a time.
    return Packer(pairs * config.data.captions_per_image, share)


def check_shares_rows(share: float, text_type: str) -> None:
    """Raises ConfigError if texts are to share rows of a tower of a type that cannot keep them apart."""
    if share < 1 and not encoder_of("text", text_type).shares_rows:
        raise ConfigError(
            f"config.model.text_rows={share} lets texts share rows, which the layers of a {text_type} do not keep "
            "apart: set it to 1"
        )


def place(real: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """bool [T N], the real tokens of a group -> (slot -> token, token -> slot), int32 [T N] each, -1 where none is.

    Slots and tokens are counted row by row; slots are those of the first `rows` rows.
    """
    count, length = real.shape
    lengths = real.sum(axis=1)
    starts = np.array(starts_of(lengths.tolist(), length, rows))
    source, target = np.full(real.size, -1, np.int32), np.full(real.shape, -1, np.int32)
    fits = real & (starts >= 0)[:, None]
    target[fits] = (starts[:, None] + np.cumsum(real, axis=1) - 1)[fits]
    source[target[fits]] = np.flatnonzero(fits.ravel())
    return source.reshape(count, length), target


def starts_of(lengths: Sequence[int], length: int, rows: int) -> list[int]:
    """The first slot of each text in `rows` rows of `length` slots; -1 for a text that no row has room for."""
    starts = [-1] * len(lengths)
    with_room: list[list[int]] = [[] for _ in range(length + 1)]  # Rows by their room.
    with_room[length] = list(range(rows))[::-1]
    some = 1 << length if rows else 0  # Bit k: there are rows with room for k tokens.
    for text in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        size = lengths[text]
        if not (enough := some >> size):
            continue
        room = size + (enough & -enough).bit_length() - 1
        row = with_room[room].pop()
        if not with_room[room]:
            some ^= 1 << room
        starts[text] = (row + 1) * length - room
        with_room[room - size].append(row)
        some |= 1 << (room - size)
    return starts


def share_needed(lengths: Sequence[int], length: int, texts: int = 512, seed: int = 0) -> float:
    """A share of rows that suffices for random groups of so many `texts` with these lengths, with 2 % to spare."""
    rng, most = np.random.default_rng(seed), 0
    for _ in range(32):
        drawn = np.minimum(rng.choice(np.asarray(lengths), texts), length).tolist()
        most = max(most, 1 + max(starts_of(drawn, length, texts)) // length)
    return min(1.0, round(most / texts + 0.02, 2))
