"""How many tokens of a text a tower reads."""

from typing import Any

LONGEST = 512  # The length of texts that nothing else limits.
# Towers that read their padding, so that texts are always as long: they pool at the last position, or convolve.
PADDED = ("siglip_text_model", "convbert")


def positions_of(text: Any) -> int:
    """The number of tokens that a text tower of this config has positions for."""
    return int(getattr(text, "longest", getattr(text, "max_position_embeddings", LONGEST)))


def default_length(text: Any, tokenizer: Any) -> int:
    """Where a text is cut by default: what the tokenizer states and the tower has positions for, up to 512."""
    return int(min(tokenizer.model_max_length, positions_of(text), LONGEST))
