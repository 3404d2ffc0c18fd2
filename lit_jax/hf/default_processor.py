"""What goes with a tower that no folder describes: an image processor of its numbers, a tokenizer of the captions."""

from collections import Counter
from collections.abc import Iterable
from itertools import count
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError

PAD, CLS, SEP, UNK = "[PAD]", "[CLS]", "[SEP]", "[UNK]"
MORE = "##"  # Before what continues a word.


def image_processor(config: Any) -> Any:
    """Resizes to the square that an image tower of this `Config` reads, and brings its pixels to -1 .. 1."""
    side = config.image_size
    half = [0.5] * 3
    return transformers.ViTImageProcessorPil(
        size={"height": side, "width": side}, image_mean=half, image_std=half
    )


def tokenizer(config: Any, captions: Iterable[str]) -> Any:
    """A WordPiece tokenizer for a text tower of this `Config`: the commonest words of `captions`, letters for the rest.

    A function of both alone. Case is dropped. Ids that the tower counts from or pools at (pad_token_id, eos_token_id)
    are kept. Raises ConfigError where the tower has no room for letters, or its special ids lie outside its vocabulary.
    """
    normalizer, split = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words = Counter(
        word for caption in captions for word, _ in split.pre_tokenize_str(normalizer.normalize_str(caption))
    )
    vocabulary = _vocabulary(words, config)
    made = Tokenizer(models.WordPiece(vocabulary, unk_token=UNK, continuing_subword_prefix=MORE))
    made.normalizer, made.pre_tokenizer = normalizer, split
    made.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}", special_tokens=[(name, vocabulary[name]) for name in (CLS, SEP)]
    )
    types = ["token_type_ids"] if getattr(config, "type_vocab_size", 0) > 1 else []
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=getattr(config, "longest", config.max_position_embeddings),
        model_input_names=["input_ids", *types, "attention_mask"],
        pad_token=PAD,
        cls_token=CLS,
        sep_token=SEP,
        unk_token=UNK,
    )


def _vocabulary(words: Counter[str], config: Any) -> dict[str, int]:
    """Token -> id: special ones, then letters, then words, the commonest first, as far as the tower has ids."""
    pad, end = getattr(config, "pad_token_id", 1), getattr(config, "eos_token_id", 2)
    letters: Counter[str] = Counter()
    for word, times in words.items():
        letters.update({letter: times * word.count(letter) for letter in set(word)})
    room = config.vocab_size - 4
    if max(pad, end) >= config.vocab_size or pad == end or room < 2 * min(len(letters), 26):
        raise ConfigError(
            f"text_config has vocab_size {config.vocab_size}, pad_token_id {pad} and eos_token_id {end}: a tokenizer "
            f"of the captions wants four special ids, two of them these, and two more for each letter"
        )
    some = _commonest(letters)[: room // 2]
    whole = [word for word in _commonest(words) if len(word) > 1]
    tokens = [CLS, UNK, *some, *(MORE + letter for letter in some), *whole][: config.vocab_size - 2]
    free = (i for i in count() if i not in (pad, end))
    vocabulary = {PAD: pad, SEP: end} | dict(zip(tokens, free, strict=False))
    unused = set(range(max(vocabulary.values()))) - set(vocabulary.values())
    return vocabulary | {f"[unused{i}]": i for i in sorted(unused)}


def _commonest(counted: Counter[str]) -> list[str]:
    return sorted(counted, key=lambda name: (-counted[name], name))
