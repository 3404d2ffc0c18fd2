"""Tokenizers that their files describe wrongly are refused quickly in one sentence; those of supported types work."""

import base64
import json
import subprocess

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from lit_jax.data.transforms.tokenizer import make_count_tokens, make_tokenize
from lit_jax.hf import tokenizer_probe
from lit_jax.hf.processor import load_tokenizer
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError, WeightError
from tests import tiny

CLIP = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def changed(folder, backend=None, config=None):
    """A folder with the tiny tokenizer, and fields of its two files replaced."""
    tiny.tokenizer().save_pretrained(folder)
    for name, fields in (("tokenizer.json", backend), ("tokenizer_config.json", config)):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | (fields or {})))
    return folder


def split(pattern):
    return {
        "pre_tokenizer": {
            "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False
        }
    }  # fmt: skip


def added(count, start=100):
    kind = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"added_tokens": [{"id": start + i, "content": f"<{i}>"} | kind for i in range(count)]}


def steps(*normalizers):
    return {"normalizer": {"type": "Sequence", "normalizers": list(normalizers)}}


DOUBLE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
VOCABULARY = {word: i for i, word in enumerate(tiny.WORDS)}
WORDS = {"type": "WordLevel", "unk_token": "[UNK]"}
LONG_MAP = base64.b64encode((0).to_bytes(4, "little") + b"x" * 10_000 + b"\0").decode()
TYPED = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 7}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [],
    "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]}},
}
BACKENDS = [
    (split("(a+)+b"), "cannot be tokenized"),
    (split("(("), "cannot be tokenized"),
    (steps(*[DOUBLE] * 40), r"up to 1\.1e\+12 times as long"),
    (steps({"type": "Prepend", "prepend": "a" * 10_000}), "of 10000 characters"),
    (steps(*[{"type": "Lowercase"}] * 300), "301 steps"),
    (steps({"type": "Precompiled", "precompiled_charsmap": LONG_MAP}), "times as long"),
    (steps(DOUBLE | {"pattern": {"String": ""}}), "pattern='' is not usable"),
    (added(10_001), "found 10001 of them"),
    (added(1, -1), "id of an added token=-1"),
    (added(1, 2**31), "id of an added token=2147483648"),
    ({"model": WORDS | {"vocab": VOCABULARY | {"red": 2**32 - 1}}}, "id of 'red'=4294967295"),
    ({"model": WORDS | {"vocab": VOCABULARY | {"red": 1.5}}}, r"id of 'red'=1\.5"),
    ({"model": 3}, "model=3"),
    (
        {"model": {"type": "WordPiece", "vocab": VOCABULARY, "max_input_chars_per_word": 10**9}},
        "chars_per_word",
    ),
    ({"post_processor": TYPED}, "type_id=7"),
    ({"padding": {"strategy": {"Fixed": 10**12}}}, "Fixed=1000000000000"),
]
CONFIGS = [
    *(("model_max_length", value) for value in ("abc", 3.5, 0, -1, True, [], float("nan"), float("inf"))),
    ("padding_side", "up"),
    ("truncation_side", 1),
    ("pad_token_type_id", 9),
    ("model_input_names", "ids"),
    ("pad_token", "x" * 5_000),
    ("additional_special_tokens", [7]),
]


@pytest.mark.parametrize(("fields", "message"), BACKENDS)
def test_a_tokenizer_json_that_cannot_be_used_is_refused_before_it_is_read(
    fields, message, tmp_path, monkeypatch
):
    changed(tmp_path, fields)
    monkeypatch.setattr(
        transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: pytest.fail("it was read")
    )
    with pytest.raises(
        WeightError, match=rf"tokenizer in .* cannot be read: tokenizer\.json: .*{message}"
    ) as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize(("field", "value"), CONFIGS)
def test_a_field_of_a_tokenizer_config_that_cannot_be_used_is_named(field, value, tmp_path):
    with pytest.raises(WeightError, match=rf"tokenizer_config\.json: {field}=.* is not usable; wanted"):
        load_tokenizer(changed(tmp_path, config={field: value}))


@pytest.mark.parametrize("length", [40, 512.0, 10**30, 1e30, None])
def test_a_maximum_length_as_published_folders_write_it_is_read(length, tmp_path):
    tokenizer = load_tokenizer(changed(tmp_path, config={"model_max_length": length}))
    assert make_tokenize(tokenizer, 6)(["a red square"])["input_ids"].tolist() == [[2, 4, 5, 8, 3, 0]]


def test_a_panic_of_tokenizers_is_an_error_of_one_sentence():
    bad = Tokenizer.from_str(
        json.dumps(json.loads(tiny.tokenizer().backend_tokenizer.to_str()) | split("(a+)+b"))
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bad, pad_token="[PAD]")
    for read in (make_tokenize(tokenizer, 12), make_count_tokens(tokenizer, 12)):
        with pytest.raises(ConfigError, match=r"tokenizer fails .*retry-limit") as error:
            read(["a" * 40 + "c"])
        assert "\n" not in str(error.value)


def test_a_tokenizer_without_its_own_unknown_token_is_an_error_of_one_sentence(tmp_path):
    tokenizer = load_tokenizer(
        changed(tmp_path, {"model": {"type": "WordLevel", "unk_token": "?", "vocab": VOCABULARY}})
    )
    with pytest.raises(ConfigError, match="cannot read a text: WordLevel error"):
        make_tokenize(tokenizer, 12)(["purple"])


@pytest.mark.parametrize(
    "pattern", [CLIP, r"\s+", " {2,}", r" ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", r"[\r\n]"]
)
def test_patterns_of_published_tokenizers_need_no_trial(pattern):
    assert tokenizer_probe.is_quick(pattern)


@pytest.mark.parametrize("pattern", ["(a+)+b", "a*a*b", r"(?:x|y)*", "a{9999}", "a" * 600, "(", "["])
def test_other_patterns_are_tried(pattern):
    assert not tokenizer_probe.is_quick(pattern)


def test_a_trial_that_takes_too_long_or_too_much_memory_ends_in_one_sentence(tmp_path, monkeypatch):
    path = changed(tmp_path, split("(a|b)+")) / "tokenizer.json"
    tokenizer_probe.run(path)
    monkeypatch.setattr(tokenizer_probe, "LARGEST_MEMORY", 1 << 24)
    with pytest.raises(ValueError, match=r"cannot be tokenized|GiB"):
        tokenizer_probe.run(path)
    for ended in (subprocess.TimeoutExpired("x", 1), subprocess.CompletedProcess("x", -9, b"", b"")):
        monkeypatch.setattr(subprocess, "run", lambda *_, ended=ended, **__: raised(ended))
        with pytest.raises(ValueError, match="a short text takes more than 4 s"):
            tokenizer_probe.run(path)


def raised(ended):
    if isinstance(ended, Exception):
        raise ended
    return ended


def unigram():
    """A Unigram tokenizer like those of XLM-R and SigLIP."""
    pieces = [
        ("<s>", 0.0),
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁a", -1.0),
        ("▁red", -2.5),
        ("▁", -3.0),
    ]
    words = Tokenizer(models.Unigram(pieces, unk_id=3))
    words.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" {2,}", " ")])
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return words


def bytes_of_pairs():
    """A byte-level BPE tokenizer like those of RoBERTa, CLIP and ModernBERT."""
    tokens = ["<s>", "<pad>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "re", "red"]
    words = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, [("r", "e"), ("re", "d")]))
    words.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return words


@pytest.mark.parametrize("make", [unigram, bytes_of_pairs, lambda: tiny.bert_tokenizer().backend_tokenizer])
def test_every_kind_of_published_tokenizer_gives_the_same_ids_from_its_folder(make, tmp_path):
    pad = "<pad>" if make().token_to_id("<pad>") == 1 else "[PAD]"
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=make(), pad_token=pad, model_max_length=40
    )
    tokenizer.save_pretrained(tmp_path)
    texts = ["a  red cat", "Ünï 漢字 🙂", ""]
    want = tokenizer(texts, padding="max_length", max_length=40, truncation=True)["input_ids"]
    np.testing.assert_array_equal(make_tokenize(load_tokenizer(tmp_path), 40)(texts)["input_ids"], want)
