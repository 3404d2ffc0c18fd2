"""The tokenizers of other projects: how texts are cleaned first, and the vocabulary of OpenAI's CLIP."""

import gzip
import importlib.util
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, models, normalizers, pre_tokenizers, processors
from tokenizers.normalizers import Lowercase, Replace, Strip

from lit_jax.hf import processor_files, tokenizer_rules
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import WeightError
from lit_jax.utils.typing import Tokenizer

_START, _END = "<|startoftext|>", "<|endoftext|>"
_VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"  # In the package open_clip.
_MERGES = 49152 - 256 - 2  # How many of the merges in the file count.
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_SPACES = (Replace(Regex(r"\s+"), " "), Strip())
# What ftfy and html.unescape do to most texts. They also mend ligatures and wrong decodings, which is not done here.
_MENDED = tuple(
    Replace(there, sign)
    for there, sign in (
        *(("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&#39;", "'"), ("&amp;", "&")),
        *((quote, "'") for quote in "\u02bc\u2018\u2019\u201a\u201b"),
        *((quote, '"') for quote in "\u201c\u201d\u201e\u201f"),
    )
)
CLEANINGS = {
    "whitespace": (*_MENDED, *_SPACES),
    "lower": (*_MENDED, *_SPACES, Lowercase()),
    "canonicalize": (
        *_MENDED,
        Replace("_", " "),
        Replace(Regex(r"[!-/:-@\[-`{-~]"), ""),  # ASCII punctuation.
        Lowercase(),
        *_SPACES,
    ),
}


def of_folder(folder: Path) -> Any:
    """The fast tokenizer of a folder's files. Raises WeightError."""
    return processor_files.tokenizer(folder)


def has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in tokenizer_rules.FILES)


def finished(
    where: Path, tokenizer: Any, *, cleaning: str, length: int, masked: bool = True, template: str = ""
) -> Tokenizer:
    """A copy that cleans texts first, cuts them to `length` tokens and, if `masked`, says which are padding.

    `template` replaces what the tokenizer puts around a text. The copy is a tokenizer of transformers that its
    tokenizer.json describes in full, so a saved one does the same. Raises WeightError for a tokenizer that is written
    in Python.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise WeightError(
            f"{where}: {type(tokenizer).__name__} is written in Python, where a tokenizer.json is wanted"
        )
    copy = tokenizers.Tokenizer.from_str(backend.to_str())
    own = () if copy.normalizer is None else (copy.normalizer,)
    if steps := (*CLEANINGS.get(cleaning, ()), *own):
        copy.normalizer = normalizers.Sequence(list(steps))
    if template:
        names = [part for part in template.split() if part != "$A"]
        copy.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[(name, copy.token_to_id(name)) for name in names]
        )
    special = {
        f"{name}_token": str(getattr(tokenizer, f"{name}_token"))
        for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
        if getattr(tokenizer, f"{name}_token", None) is not None
    }
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=copy,
        model_max_length=length,
        model_input_names=["input_ids", *(["attention_mask"] if masked else [])],
        padding_side="right",
        truncation_side="right",
        **special,
    )


def clip_tokenizer(folder: Path) -> Any:
    """OpenAI's tokenizer, from the vocabulary in the installed package open_clip. Raises WeightError without one."""
    spec = importlib.util.find_spec("open_clip")
    places = list(spec.submodule_search_locations or ()) if spec else []
    path = next(
        (Path(place) / _VOCABULARY for place in places if (Path(place) / _VOCABULARY).is_file()), None
    )
    if path is None:
        raise WeightError(
            f"{folder} holds no tokenizer; copy the tokenizer.json and the tokenizer_config.json of "
            "openai/clip-vit-large-patch14 into it, or install open_clip_torch, whose vocabulary is then read"
        )
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1 : _MERGES + 1]
    return byte_pairs([(first, second) for first, second in (line.split() for line in lines)])


def byte_pairs(merges: list[tuple[str, str]]) -> Any:
    """CLIP's tokenizer with these merges; its tokens are letters, letters that end a word, merges, start and end."""
    letters = _letters()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges), _START, _END]
    backend = tokenizers.Tokenizer(
        models.BPE(
            {token: i for i, token in enumerate(tokens)},
            merges,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            unk_token=_END,
        )
    )
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.post_processor = processors.TemplateProcessing(
        single=f"{_START} $A {_END}",
        special_tokens=[(token, tokens.index(token)) for token in (_START, _END)],
    )
    special = {"bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": _END}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def _letters() -> list[str]:
    """A printable character for each byte, in the order of CLIP's vocabulary: the printable bytes, then the others."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = (byte for byte in range(256) if byte not in printable)
    return [*map(chr, printable), *(chr(256 + i) for i, _ in enumerate(others))]
