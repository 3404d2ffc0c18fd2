"""ERNIE (arXiv:1904.09223), as transformers' ErnieModel with its pooler: BERT, with task types in some checkpoints."""

import dataclasses

from lit_jax.models.encoders import bert
from lit_jax.models.encoders.hf_config import read_config
from lit_jax.models.layers.tokens import Tokens
from lit_jax.models.weight_map import WeightMap, table


@dataclasses.dataclass(frozen=True)
class Config(bert.Config):
    """Fields and defaults of transformers' ErnieConfig."""

    task_type_vocab_size: int = 3
    use_task_id: bool = False

    @classmethod
    def from_hf(cls, hf: dict) -> "Config":
        """Raises WeightError for a field that would change the numbers and is not implemented."""
        fixed = {
            "is_decoder": (False,),
            "add_cross_attention": (False,),
            "position_embedding_type": ("absolute",),
        }
        return read_config(cls, "ernie", hf, fixed=fixed)

    @property
    def tokens(self) -> Tokens:
        return dataclasses.replace(super().tokens, tasks=self.task_type_vocab_size if self.use_task_id else 0)


_TASKS = table("embeddings.task_type_embeddings.weight | embeddings/task_type/embedding | t d")


def weights(config: Config) -> WeightMap:
    return bert.weights(config) + (_TASKS if config.use_task_id else WeightMap())


ENCODER = dataclasses.replace(bert.ENCODER, Config=Config, weights=weights, prefix="ernie.")
