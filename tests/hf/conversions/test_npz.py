"""npz files of vision_transformer and big_vision: tests/fixtures/make_foreign.py says what their embeddings are."""

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

import lit_jax
from lit_jax.hf import hub
from lit_jax.hf.processor import load_image_processor, load_processor, load_tokenizer
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import WeightError
from tests.bad_pictures import noise
from tests.hf.conversions import foreign

NAMES = [*foreign.names("lit_npz"), *foreign.names("siglip_npz")]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "##s", "on", "the", "mat", "."]


def embedded(path, model):
    module, params = lit_jax.load(path)
    ids = jnp.array(model["ids"], jnp.int32)
    texts = {"input_ids": ids} | ({"attention_mask": ids != 0} if module.config.text_type == "bert" else {})
    return module, module.apply({"params": params}, foreign.images(32), texts)


@pytest.mark.sampled(8)
@pytest.mark.parametrize("name", NAMES)
def test_an_npz_file_gives_the_embeddings_of_its_project(name, tmp_path):
    model = foreign.stored(name)
    module, (images, texts, _) = embedded(foreign.write(tmp_path, model), model)
    np.testing.assert_allclose(images, model["image_embeds"], atol=1e-5)
    np.testing.assert_allclose(texts, model["text_embeds"], atol=1e-5)
    assert module.config.model_type == ("siglip" if "siglip" in name else "vision-text-dual-encoder")


@pytest.mark.parametrize("name", ["lit_bert", "lit_text_head"])
def test_positions_of_only_the_patches_are_read_as_big_vision_adds_them(name, tmp_path):
    model, table = foreign.stored(name), "img/Transformer/posembed_input/pos_embedding"
    positions, cls = (foreign.drawn(key, tuple(model["shapes"][key])) for key in (table, "img/cls"))
    changed = {"img/pos_embedding": positions[:, 1:], "img/cls": cls + positions[:, :1]}
    path = foreign.write(tmp_path, model, without=(table, "img/cls"), **changed)
    _, (images, texts, _) = embedded(path, model)
    np.testing.assert_allclose(images, model["image_embeds"], atol=1e-5)
    np.testing.assert_allclose(texts, model["text_embeds"], atol=1e-5)


def test_the_only_npz_file_of_a_folder_is_read_by_the_name_of_the_folder(tmp_path):
    path = foreign.write(tmp_path, foreign.stored("lit_text"))
    assert hub.find(path) == path
    assert hub.find(str(path)) == path
    _, params = lit_jax.load(tmp_path)
    assert params["logit_scale"] == foreign.drawn("t", (1,))[0]


def test_bfloat16_is_read_from_two_bytes_without_a_name(tmp_path):
    model = foreign.stored("siglip_npz")
    kernel = foreign.drawn("img/embedding/kernel", (8, 8, 3, 64)).astype(ml_dtypes.bfloat16)
    path = foreign.write(tmp_path, model, **{"img/embedding/kernel": kernel.view("V2")})
    _, params = lit_jax.load(path)
    np.testing.assert_array_equal(
        params["vision"]["embeddings"]["patch"]["kernel"], kernel.astype(np.float32)
    )


def test_damaged_files_and_pickles_are_refused_in_one_sentence(tmp_path):
    model = foreign.stored("lit_bert")
    path = foreign.write(tmp_path, model)
    whole = path.read_bytes()
    for number, content in enumerate((b"", b"no zip", whole[: len(whole) // 2], whole[:-30])):
        path.write_bytes(content)
        for read in (lit_jax.load, load_image_processor):
            with pytest.raises(WeightError, match=r"model\.npz cannot be read as npz") as error:
                read(path)
            assert "\n" not in str(error.value), number
    np.savez(path, t=np.array([{}], object), **{"img/cls": np.zeros(3)})
    with pytest.raises(WeightError, match=r"t\.npy holds Python objects \(a pickle\), which are not read"):
        lit_jax.load(path)


def test_a_changed_byte_inside_an_array_is_reported(tmp_path):
    path = foreign.write(tmp_path, foreign.stored("lit_text"))
    content = bytearray(path.read_bytes())
    place = content.index(b"img/embedding/kernel.npy") + 2_000
    content[place] ^= 255
    path.write_bytes(content)
    with pytest.raises(WeightError, match=r"img/embedding/kernel cannot be read: Bad CRC"):
        lit_jax.load(path)


def test_arrays_of_another_project_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", weights=np.zeros(3))
    with pytest.raises(WeightError, match="holds the arrays of no LiT, SigLIP, BiT or ViT with a CLS token"):
        lit_jax.load(tmp_path / "x.npz")


def naflex(model):
    """The same weights as big_vision's NaFlex ViT names them: a dense kernel, and a grid of positions."""
    names = [name for name in model["shapes"] if name.endswith(("img/embedding/kernel", "img/pos_embedding"))]
    kernel, positions = (foreign.drawn(name, tuple(model["shapes"][name])) for name in names)
    width = kernel.shape[-1]
    side = int(positions.shape[1] ** 0.5)
    grid = positions.reshape(side, side, width)
    return dict(zip(names, (kernel.reshape(-1, width), grid), strict=True))


@pytest.mark.parametrize("name", ["siglip_npz", "siglip_npz_stacked"])
def test_a_model_for_pictures_of_any_shape_gives_the_same_embeddings_of_squares(name, tmp_path):
    model = foreign.stored(name)
    path = foreign.write(tmp_path, model, **naflex(model))
    module, (images, texts, _) = embedded(path, model)
    np.testing.assert_allclose(images, model["image_embeds"], atol=1e-5)
    np.testing.assert_allclose(texts, model["text_embeds"], atol=1e-5)
    assert module.config.model_type == "siglip2"
    found = load_image_processor(path)
    assert (found.patch_size, found.max_num_patches) == (8, 16)
    given = found([noise((64, 48)), noise((20, 90))], return_tensors="np")
    lit_jax.save(tmp_path / "m", *lit_jax.load(path))
    want = transformers.Siglip2Model.from_pretrained(tmp_path / "m")
    ours = lit_jax.VisionTextDualEncoderModel.from_pretrained(path).get_image_features(**given)
    features = want.get_image_features(**{key: torch.from_numpy(value) for key, value in given.items()})
    want = getattr(features, "pooler_output", features).detach().numpy()
    np.testing.assert_allclose(ours, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("name", ["lit_bert", "siglip_npz"])
def test_arrays_that_are_missing_left_over_or_of_another_shape_are_named(name, tmp_path):
    model, bias = foreign.stored(name), "img/Transformer/encoderblock_1/LayerNorm_0/bias"
    with pytest.raises(WeightError, match=f"missing from the checkpoint: {bias}"):
        lit_jax.load(foreign.write(tmp_path / "a", model, without=(bias,)))
    with pytest.raises(WeightError, match="missing from the checkpoint: txt/head/bias"):
        lit_jax.load(foreign.write(tmp_path / "b", model, without=("txt/head/bias",)))
    with pytest.raises(WeightError, match="not in the table: img/more"):
        lit_jax.load(foreign.write(tmp_path / "c", model, **{"img/more": np.zeros(3, np.float32)}))
    for shape in ((3,), (3, 4)):
        with pytest.raises(WeightError, match="shape"):
            lit_jax.load(
                foreign.write(tmp_path / str(len(shape)), model, **{bias: np.zeros(shape, np.float32)})
            )


def test_texts_of_a_bert_have_cls_and_no_sep_and_16_tokens(tmp_path):
    path = foreign.write(tmp_path, foreign.stored("lit_bert"))
    (tmp_path / "model.txt").write_text("\n".join(WORDS) + "\n")
    found = load_tokenizer(path)
    batch = found(["A cats  on the MÁT.", "a " * 40], padding="max_length", truncation=True)
    assert batch["input_ids"][0] == [2, 4, 5, 6, 7, 8, 9, 10, *[0] * 8]
    assert batch["input_ids"][1] == [2, *[4] * 15]
    assert batch["attention_mask"][0] == [1] * 8 + [0] * 8
    embedder = lit_jax.Embedder(path)
    np.testing.assert_allclose(embedder.texts(["a cat"]), embedder.texts(["a cat", "a " * 40])[:1], atol=1e-6)


def test_pictures_are_resized_to_a_square_and_scaled_to_minus_one_to_one(tmp_path):
    for name in ("lit_bert", "siglip_npz"):
        found = load_image_processor(foreign.write(tmp_path / name, foreign.stored(name)))
        assert (dict(found.size), found.resample) == ({"height": 32, "width": 32}, 2)
        white = np.full((40, 50, 3), 255, np.uint8)
        np.testing.assert_allclose(found(white)["pixel_values"][0], np.ones((3, 32, 32)), atol=1e-6)


def test_a_file_without_a_vocabulary_is_refused_with_the_one_it_needs(tmp_path):
    for name, wanted in (
        ("lit_bert", r"wanted model\.txt"),
        ("siglip_npz", r"as model\.model or spiece\.model"),
    ):
        with pytest.raises(WeightError, match=wanted):
            load_tokenizer(foreign.write(tmp_path / name, foreign.stored(name)))
    (tmp_path / "lit_bert/vocab.txt").write_text("a\nb\n")
    with pytest.raises(WeightError, match=r"has no \[PAD\] and no \[UNK\] and no \[CLS\]"):
        load_tokenizer(tmp_path / "lit_bert/model.npz")
    (tmp_path / "siglip_npz/spiece.model").write_bytes(b"\xff" * 9)
    with pytest.raises(WeightError, match=r"cannot be read as a model of SentencePiece|needs a package"):
        load_processor(tmp_path / "siglip_npz/model.npz")


TEXTS = ["a photo of a cat", "Two dogs, 3_cats!", "naïve  café", "word " * 40, "x"]


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_sentencepiece_texts_end_with_the_end_token_and_are_padded_with_it(kind, tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    path = foreign.write(tmp_path, foreign.stored("lit_text"))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20),
        model_prefix=str(tmp_path / "model"),
        vocab_size=30 if kind == "unigram" else 40,
        model_type=kind,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "model.model"))
    ours = load_tokenizer(path)(TEXTS, padding="max_length", truncation=True)
    assert set(ours) == {"input_ids"}
    for text, ids in zip(TEXTS, ours["input_ids"], strict=True):
        kept = theirs.encode(text)[:15]
        assert ids == kept + [1] * (16 - len(kept)), text
    other = load_tokenizer(spell(tmp_path / "s", tmp_path / "model.model"))(["A CAT, two_dogs!"])[
        "input_ids"
    ][0]
    assert other == [*theirs.encode("a cat two dogs"), 1]


def spell(folder, model):
    """A SigLIP with the same vocabulary that drops case and punctuation from its texts."""
    path = foreign.write(folder, foreign.stored("siglip_npz"))
    (folder / "spiece.model").write_bytes(model.read_bytes())
    return path
