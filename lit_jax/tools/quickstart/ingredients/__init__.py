"""The pretrained towers and the pairs of `lit-jax quickstart`, which come from the package index."""

from lit_jax.tools.quickstart.ingredients.openmoji import check_split, emoji_pairs
from lit_jax.tools.quickstart.ingredients.packages import INGREDIENTS, Ingredient
from lit_jax.tools.quickstart.ingredients.towers import image_tower, text_tower

__all__ = ["INGREDIENTS", "Ingredient", "check_split", "emoji_pairs", "image_tower", "text_tower"]
