"""The tokenizers of Google's JAX projects, made from the vocabulary next to an npz file."""

from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, models, normalizers, pre_tokenizers, processors

from lit_jax.hf.conversions import texts
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import WeightError, first_line
from lit_jax.utils.typing import Tokenizer

_UNIGRAM, _BPE, _BYTE = 1, 2, 6  # Numbers of SentencePiece's format.
_LARGEST = 64 << 20  # The most bytes of a vocabulary.


def word_pieces(npz: Path, length: int) -> Tokenizer:
    """BERT's uncased tokenizer, with [CLS] and without [SEP]; it cuts texts to `length`. Raises WeightError."""
    path = _beside(npz, f"{npz.stem}.txt", "vocab.txt")
    if path is None:
        if texts.has_tokenizer(npz.parent):
            found = texts.of_folder(npz.parent)
            return texts.finished(npz.parent, found, cleaning="", length=length, template="[CLS] $A")
        raise WeightError(
            f"{npz} has no vocabulary beside it; wanted {npz.stem}.txt, which is published with it, or the vocab.txt "
            "of google-bert/bert-base-uncased"
        )
    tokens = _read(path).decode("utf-8", "replace").rstrip("\n").split("\n")
    vocabulary = {token.rstrip("\r"): i for i, token in enumerate(tokens)}
    if missing := [token for token in ("[PAD]", "[UNK]", "[CLS]") if token not in vocabulary]:
        raise WeightError(
            f"{path} has no {' and no '.join(missing)}; wanted a vocabulary of BERT, one token per line"
        )
    backend = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = (
        normalizers.BertNormalizer(lowercase=True),
        pre_tokenizers.BertPreTokenizer(),
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]"}
    plain = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    return texts.finished(npz.parent, plain, cleaning="", length=length, template="[CLS] $A")


def sentence_pieces(npz: Path, length: int, *, cleaning: str, pad: str = "</s>") -> Tokenizer:
    """SentencePiece whose end token stays when a text is cut to `length`, padded with `pad`. Raises WeightError."""
    path = _beside(npz, f"{npz.stem}.model", "spiece.model", "sentencepiece.model", "tokenizer.model")
    if path is not None:
        plain = _of_model(path, pad)
    elif texts.has_tokenizer(npz.parent):
        plain = texts.of_folder(npz.parent)
    else:
        raise WeightError(
            f"{npz} has no vocabulary beside it; wanted its model of SentencePiece as {npz.stem}.model or spiece.model"
        )
    template = f"$A {plain.eos_token}"
    return texts.finished(
        npz.parent, plain, cleaning=cleaning, length=length, masked=False, template=template
    )


def _of_model(path: Path, pad: str) -> Any:
    try:
        from sentencepiece import sentencepiece_model_pb2 as protocol
    except ImportError as error:
        raise WeightError(
            f"{path} is a model of SentencePiece, which needs a package that is not installed; "
            "pip install 'lit_jax[sentencepiece]'"
        ) from error
    model: Any = protocol.ModelProto()
    try:
        model.ParseFromString(_read(path))
        pieces = [(piece.piece, piece.score) for piece in model.pieces]
        backend = tokenizers.Tokenizer(_algorithm(model, pieces))
        end, unknown = (pieces[i][0] for i in (model.trainer_spec.eos_id, model.trainer_spec.unk_id))
    except WeightError:
        raise
    except Exception as error:  # protobuf and tokenizers raise errors of their own.
        raise WeightError(
            f"{path} cannot be read as a model of SentencePiece: {first_line(error)}"
        ) from error
    spec = model.normalizer_spec
    steps: list[Any] = (
        [normalizers.Precompiled(spec.precompiled_charsmap)] if spec.precompiled_charsmap else []
    )
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    backend.normalizer = normalizers.Sequence(steps)
    scheme = "always" if spec.add_dummy_prefix else "never"
    backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", scheme)
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, model.trainer_spec.eos_id)]
    )
    pad = pad if backend.token_to_id(pad) is not None else end
    special = {"eos_token": end, "unk_token": unknown, "pad_token": pad}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def _algorithm(model: Any, pieces: list[tuple[str, float]]) -> Any:
    kind, unknown = model.trainer_spec.model_type, model.trainer_spec.unk_id
    bytes_too = any(piece.type == _BYTE for piece in model.pieces)
    if kind == _UNIGRAM:
        return models.Unigram(pieces, unknown, byte_fallback=bytes_too)
    if kind == _BPE:
        ids = {piece: i for i, (piece, _) in enumerate(pieces)}
        merges = [
            (ids[left + right], left, right)
            for piece in ids
            for left, right in ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
            if left in ids and right in ids
        ]
        ordered = [(left, right) for _, left, right in sorted(merges)]
        return models.BPE(ids, ordered, unk_token=pieces[unknown][0], fuse_unk=True, byte_fallback=bytes_too)
    raise WeightError(f"a model of SentencePiece of type {kind} is not implemented; unigram and bpe are")


def _beside(npz: Path, *names: str) -> Path | None:
    return next((npz.parent / name for name in names if (npz.parent / name).is_file()), None)


def _read(path: Path) -> bytes:
    if (size := path.stat().st_size) > _LARGEST:
        raise WeightError(f"{path} has {size} bytes; a vocabulary may have at most {_LARGEST}")
    return path.read_bytes()
