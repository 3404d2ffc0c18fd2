"""Processors for towers without a folder: an image processor from the config, a tokenizer from the captions."""

from collections import Counter
from collections.abc import Iterable
from itertools import count
from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.sides import pair
from lit_jax.utils.typing import ImageProcessor, Tokenizer

PAD, CLS, SEP, UNK = "[PAD]", "[CLS]", "[SEP]", "[UNK]"
LONGEST = 512  # Tokens of a text for a tower that states no limit (ModernBERT, T5).
MORE = "##"  # Prefix of a token that continues a word.


def image_processor(config: Any) -> ImageProcessor:
    """Resizes to the size that an image tower of this `Config` reads, and maps its pixels to -1 .. 1."""
    height, width = pair(config.image_size)
    half = [0.5] * 3
    return transformers.ViTImageProcessorPil(
        size={"height": height, "width": width}, image_mean=half, image_std=half
    )


def tokenizer(config: Any, captions: Iterable[str]) -> Tokenizer:
    """A WordPiece tokenizer for a text tower of this `Config`: common words of `captions`, letters for the rest.

    The same config and captions give the same tokenizer. It ignores case. It keeps the ids that the tower counts
    positions from or pools at (pad_token_id, eos_token_id). Raises ConfigError if the vocabulary of the tower has no
    room for letters or does not contain its special ids.
    """
    normalizer, split = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words = Counter(
        word for caption in captions for word, _ in split.pre_tokenize_str(normalizer.normalize_str(caption))
    )
    vocabulary = _vocabulary(words, config)
    backend = tokenizers.Tokenizer(
        models.WordPiece(vocabulary, unk_token=UNK, continuing_subword_prefix=MORE)
    )
    backend.normalizer, backend.pre_tokenizer = normalizer, split
    backend.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}", special_tokens=[(name, vocabulary[name]) for name in (CLS, SEP)]
    )
    types = ["token_type_ids"] if getattr(config, "type_vocab_size", 0) > 1 else []
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=getattr(config, "longest", getattr(config, "max_position_embeddings", LONGEST)),
        model_input_names=["input_ids", *types, "attention_mask"],
        pad_token=PAD,
        cls_token=CLS,
        sep_token=SEP,
        unk_token=UNK,
    )


def _vocabulary(words: Counter[str], config: Any) -> dict[str, int]:
    """Token -> id: special ones, then letters, then words, the most common first, until the tower has no more ids."""
    pad, end = getattr(config, "pad_token_id", 1), getattr(config, "eos_token_id", 2)
    letters: Counter[str] = Counter()
    for word, times in words.items():
        letters.update({letter: times * word.count(letter) for letter in set(word)})
    room = config.vocab_size - 4
    if max(pad, end) >= config.vocab_size or pad == end or room < 2 * min(len(letters), 26):
        raise ConfigError(
            f"text_config has vocab_size {config.vocab_size}, pad_token_id {pad} and eos_token_id {end}: a tokenizer "
            f"made from the captions needs four special ids, these two among them, and two more for each letter"
        )
    kept = _commonest(letters)[: room // 2]
    whole = [word for word in _commonest(words) if len(word) > 1]
    tokens = [CLS, UNK, *kept, *(MORE + letter for letter in kept), *whole][: config.vocab_size - 2]
    free = (i for i in count() if i not in (pad, end))
    vocabulary = {PAD: pad, SEP: end} | dict(zip(tokens, free, strict=False))
    unused = set(range(max(vocabulary.values()))) - set(vocabulary.values())
    return vocabulary | {f"[unused{i}]": i for i in sorted(unused)}


def _commonest(counted: Counter[str]) -> list[str]:
    return sorted(counted, key=lambda name: (-counted[name], name))
