"""Tokenizers whose folder has only a model of SentencePiece are read as AutoTokenizer reads them."""

import io
import json
import sys

import numpy as np
import pytest

from lit_jax.data.transforms.tokenizer import make_count_tokens, make_tokenize
from lit_jax.hf.processor import load_tokenizer
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import WeightError

CORPUS = [
    "a photo of a red cat",
    "the blue square",
    "a green circle on white",
    "dogs and cats, two of them",
] * 5
TEXTS = ["a red cat", "", "The  blue, square! " * 9, "Ünï 漢字 🙂"]
# Name of the file, class of the tokenizer, type of the model, and which ids are special.
KINDS = {
    "spm.model": ("DebertaV2Tokenizer", "deberta-v2", {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3}),
    "sentencepiece.bpe.model": ("XLMRobertaTokenizer", "xlm-roberta", {}),
    "spiece.model": (
        "AlbertTokenizer",
        "albert",
        {"pad_id": 0, "bos_id": -1, "eos_id": -1, "unk_id": 1, "control_symbols": "[CLS],[SEP],[MASK]"},
    ),
}
# Its file has the same name as ALBERT's.
T5 = ("T5Tokenizer", "t5", {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1})


def pieces(path, **ids):
    sentencepiece = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
        **ids,
    )
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(model.getvalue())


def written(folder, name, kind=None):
    kind, model_type, ids = kind or KINDS[name]
    pieces(folder / name, **ids)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    return folder


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, None) for name in KINDS), ("spiece.model", T5)], ids=[*KINDS, "t5"]
)
def test_a_folder_with_only_a_model_of_pieces_gives_the_ids_of_auto_tokenizer(name, kind, tmp_path):
    folder = written(tmp_path, name, kind)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    want = theirs(TEXTS, padding="max_length", truncation=True, max_length=16)["input_ids"]
    assert len({id for row in want for id in row}) > 10
    np.testing.assert_array_equal(make_tokenize(load_tokenizer(folder), 16)(TEXTS)["input_ids"], want)
    (folder / "tokenizer_config.json").unlink()
    np.testing.assert_array_equal(make_tokenize(load_tokenizer(folder), 16)(TEXTS)["input_ids"], want)


def of_m2m_100(folder):
    """A folder with pieces, a vocabulary of their own, and a language."""
    written(folder, "sentencepiece.bpe.model", ("M2M100Tokenizer", "m2m_100", {}))
    sentencepiece = pytest.importorskip("sentencepiece")
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.bpe.model"))
    words = ["<s>", "<pad>", "</s>", "<unk>", *(model.id_to_piece(i) for i in range(model.get_piece_size()))]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    stored = {"tokenizer_class": "M2M100Tokenizer", "src_lang": "de"}
    (folder / "tokenizer_config.json").write_text(json.dumps(stored))
    return folder


def test_m2m_100s_tokenizer_which_is_written_in_python_is_read_with_its_language(tmp_path):
    theirs = transformers.M2M100Tokenizer.from_pretrained(of_m2m_100(tmp_path / "a"))
    ours = load_tokenizer(tmp_path / "a")
    ours.save_pretrained(tmp_path / "b")
    want = theirs(TEXTS, padding="max_length", truncation=True, max_length=16)["input_ids"]
    assert theirs.convert_ids_to_tokens(want[1][:2]) == ["__de__", "</s>"]
    for found in (ours, load_tokenizer(tmp_path / "b")):
        np.testing.assert_array_equal(make_tokenize(found, 16)(TEXTS)["input_ids"], want)
    assert make_count_tokens(ours, 16)(TEXTS) == [len(ids) for ids in theirs(TEXTS)["input_ids"]]


def test_pieces_beside_a_vocabulary_are_checked_too(tmp_path):
    (of_m2m_100(tmp_path) / "sentencepiece.bpe.model").write_bytes(b"no pieces")
    with pytest.raises(WeightError, match="it is not a model of SentencePiece"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "model_type", "ids"),
    [
        ("SiglipTokenizer", "siglip_text_model", {}),
        ("BertGenerationTokenizer", "bert-generation", {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}),
    ],
)
def test_a_tokenizer_of_pieces_which_is_written_in_python_is_read(name, model_type, ids, tmp_path):
    folder = written(tmp_path, "spiece.model", (name, model_type, ids))
    ours, theirs = load_tokenizer(folder), getattr(transformers, name).from_pretrained(folder)
    want = theirs(TEXTS, padding="max_length", truncation=True, max_length=16, return_tensors="np")
    np.testing.assert_array_equal(make_tokenize(ours, 16)(TEXTS)["input_ids"], want["input_ids"])
    assert make_count_tokens(ours, 16)(TEXTS) == [len(ids) for ids in theirs(TEXTS)["input_ids"]]
    assert make_count_tokens(ours, 16).fast.to_str() == make_count_tokens(theirs, 16).fast.to_str()


@pytest.mark.parametrize("name", [*KINDS, "tokenizer.model"])
def test_without_sentencepiece_the_message_names_the_extra(name, tmp_path, monkeypatch):
    (tmp_path / name).write_bytes(b"pieces")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(WeightError) as error:
        load_tokenizer(tmp_path)
    assert str(error.value).endswith(
        f"cannot be read: {name}: it is a model of SentencePiece, which is not installed; "
        "pip install 'lit_jax[sentencepiece]'"
    )


@pytest.mark.parametrize("content", [b"", b"version 1\n", b"\0" * 99])
def test_a_file_that_is_not_a_model_of_pieces_is_refused_in_one_sentence(content, tmp_path):
    pytest.importorskip("sentencepiece")
    (tmp_path / "spm.model").write_bytes(content)
    with pytest.raises(
        WeightError, match=r"spm\.model: it is not a model of SentencePiece; download"
    ) as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value)


def test_a_normalizer_that_makes_texts_far_longer_is_refused(tmp_path):
    pytest.importorskip("sentencepiece")
    from sentencepiece import sentencepiece_model_pb2

    pieces(tmp_path / "spm.model")
    model = sentencepiece_model_pb2.ModelProto.FromString((tmp_path / "spm.model").read_bytes())
    table = model.normalizer_spec.precompiled_charsmap
    model.normalizer_spec.precompiled_charsmap = table + b"x" * 10_000 + b"\0"
    (tmp_path / "spm.model").write_bytes(model.SerializeToString())
    with pytest.raises(WeightError, match=r"normalizer makes a text up to .* times as long"):
        load_tokenizer(tmp_path)
