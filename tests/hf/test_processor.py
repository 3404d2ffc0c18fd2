"""The processor of a Hugging Face folder is read and written as transformers 5 and 4 do."""

import json
import logging
import subprocess
import sys

import jax
import numpy as np
import pytest

import lit_jax
from lit_jax.data.transforms.image_processor import make_decode, pixels_of
from lit_jax.data.transforms.tokenizer import make_tokenize
from lit_jax.hf import processor_files
from lit_jax.hf.processor import join_processors, load_processor, save_processor
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError, WeightError
from tests import tiny
from tests.bad_pictures import encoded, noise
from tests.tiny import bert_tokenizer as bert

SQUARE = {"size": {"height": 32, "width": 32}}
CROP = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}


@pytest.fixture
def vit():
    return transformers.ViTImageProcessorPil(**SQUARE)


@pytest.fixture
def saved(vit, tmp_path):
    processor = transformers.VisionTextDualEncoderProcessor(vit, bert(do_lower_case=False))
    save_processor(tmp_path / "saved", processor)
    return tmp_path / "saved"


def equal_processors(*two):
    first, second = (pixels_of(p.image_processor) for p in two)
    assert first == second
    data = encoded(noise())
    np.testing.assert_array_equal(*(make_decode(p.image_processor)(data) for p in two))
    np.testing.assert_array_equal(
        *(make_tokenize(p.tokenizer, 12)(["The cats a B"])["input_ids"] for p in two)
    )


def test_a_saved_processor_is_read_in_the_layout_of_transformers_5_and_of_4(saved, vit):
    original = transformers.VisionTextDualEncoderProcessor(vit, bert(do_lower_case=False))
    equal_processors(load_processor(saved), original)
    assert isinstance(load_processor(saved), transformers.VisionTextDualEncoderProcessor)
    (saved / "processor_config.json").unlink()
    equal_processors(load_processor(saved), original)


def test_saved_files_say_nothing_that_only_transformers_5_knows(vit, tmp_path):
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bert().backend_tokenizer, pad_token="[PAD]", extra_special_tokens=["cat"]
    )
    processor = transformers.VisionTextDualEncoderProcessor(vit, tokenizer)
    save_processor(tmp_path, processor)
    save_processor(tmp_path, load_processor(tmp_path))
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["additional_special_tokens"] == ["cat"] and "extra_special_tokens" not in config
    assert not {"is_local", "local_files_only", "name_or_path"} & config.keys()
    image = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert image["image_processor_type"] == "ViTImageProcessor"
    assert "cat" in load_processor(tmp_path).tokenizer.all_special_tokens
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"
    ]  # fmt: skip


def test_the_processor_class_is_that_of_transformers():
    assert issubclass(lit_jax.VisionTextDualEncoderProcessor, transformers.VisionTextDualEncoderProcessor)


def test_two_folders_are_joined(saved, tmp_path):
    transformers.CLIPImageProcessorPil(**CROP).save_pretrained(tmp_path / "vision")
    processor = join_processors(tmp_path / "vision", saved)
    assert type(processor.image_processor).__name__ == "CLIPImageProcessorPil"
    assert type(processor.tokenizer).__name__ == "BertTokenizer"


def test_a_folder_that_cannot_be_used_is_an_error_of_one_sentence(saved, tmp_path):
    with pytest.raises(ConfigError, match=r"no folder .*nowhere to read the image processor from"):
        load_processor(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightError, match=r"holds no image processor: none of processor_config\.json"):
        load_processor(tmp_path / "empty")
    with pytest.raises(WeightError, match="holds no tokenizer"):
        join_processors(saved, tmp_path / "empty")
    (saved / "processor_config.json").unlink()
    for content in ("{", "[]", '{"image_processor_type": "NoSuchImageProcessor"}', "{}"):
        (saved / "preprocessor_config.json").write_text(content)
        with pytest.raises(WeightError, match=r"the image processor in .*saved cannot be read") as error:
            load_processor(saved)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("tokenizer.json", "tokenizer"),
        ("tokenizer_config.json", "tokenizer"),
        ("vocab.txt", "tokenizer"),
        ("merges.txt", "tokenizer"),
        ("processor_config.json", "image processor"),
        ("preprocessor_config.json", "image processor"),
    ],
)
def test_a_pointer_of_git_lfs_in_the_place_of_a_file_is_told(saved, name, what):
    (saved / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(
        WeightError, match=rf"the {what} in .* cannot be read: {name}: it is a pointer of Git LFS; fetch"
    ):
        load_processor(saved)


@pytest.mark.parametrize(
    "name", ["BertTokenizer", "RobertaTokenizer", "T5Tokenizer", "PreTrainedTokenizerFast"]
)
def test_a_tokenizer_without_a_vocabulary_is_refused_since_it_would_know_no_word(saved, name):
    (saved / "tokenizer.json").unlink()
    (saved / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
    with pytest.raises(
        WeightError, match=r"cannot be read: it has no vocabulary, none of tokenizer\.json, vocab"
    ):
        load_processor(saved)


@pytest.mark.parametrize("empty", ["vocab.txt", "merges.txt"])
def test_an_empty_list_of_words_or_merges_is_refused_unless_it_is_not_read(saved, empty):
    for name, text in (
        ("vocab.txt", "[UNK]\n[PAD]\n[CLS]\n[SEP]\na\n"),
        ("merges.txt", "#version: 0.2\n"),
        (empty, ""),
    ):
        (saved / name).write_text(text)
    load_processor(saved)
    (saved / "tokenizer.json").unlink()
    with pytest.raises(WeightError, match=rf"cannot be read: {empty}: it is empty; copy the file again"):
        load_processor(saved)


def test_no_code_of_the_folder_is_run(saved):
    marker = saved / "marker"
    (saved / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: pass\n")
    (saved / "processor_config.json").unlink()
    path = saved / "preprocessor_config.json"
    config = json.loads(path.read_text()) | {"auto_map": {"AutoImageProcessor": "evil.Evil"}}
    path.write_text(json.dumps(config))
    load_processor(saved)
    path.write_text(json.dumps(config | {"image_processor_type": "Evil"}))
    with pytest.raises(WeightError):
        load_processor(saved)
    assert not marker.exists()


def test_a_processor_works_without_torch_and_without_a_warning_about_it(saved):
    code = f"""
import sys
for name in ("torch", "torchvision", "tensorflow"):
    sys.modules[name] = None
from lit_jax.data.transforms.image_processor import make_decode
from lit_jax.hf.processor import load_processor, save_processor
from lit_jax.data.transforms.tokenizer import make_tokenize
processor = load_processor({str(saved)!r})
save_processor({str(saved)!r}, processor)
assert make_decode(processor.image_processor)({encoded(noise())!r}).shape == (32, 32, 3)
assert make_tokenize(processor.tokenizer, 8)(["a cat"])["input_ids"].shape == (1, 8)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_batch_has_jax_arrays_if_asked_for(tmp_path):
    save_processor(tmp_path, tiny.processor())
    processor = lit_jax.VisionTextDualEncoderProcessor.from_pretrained(tmp_path)
    pictures = [np.full((40, 50, 3), 90, np.uint8)]
    ours = processor(text=["a red square"], images=pictures, return_tensors="jax")
    theirs = processor(text=["a red square"], images=pictures, return_tensors="np")
    assert ours.keys() == theirs.keys() == {"input_ids", "attention_mask", "pixel_values"}
    for name, array in ours.items():
        assert isinstance(array, jax.Array)
        np.testing.assert_array_equal(array, theirs[name])


def test_a_folder_of_our_own_layout_is_read_without_a_warning_of_transformers(tmp_path):
    lit_jax.save(tmp_path, *tiny.dual(), tiny.processor(), layout="lit_jax")
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    try:
        found = load_processor(tmp_path)
    finally:
        logger.removeHandler(handler)
    assert records == []
    text = "the red square"
    assert found.tokenizer(text)["input_ids"] == tiny.processor().tokenizer(text)["input_ids"]


def test_what_a_tokenizer_lacks_is_told_in_full(tmp_path):
    tiny.tokenizer().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").write_text("a\n")  # Its class does not read this file.
    with pytest.raises(
        WeightError, match=r"cannot be read: .* from one of: \(1\) a `tokenizers` library serializ"
    ):
        processor_files.tokenizer(tmp_path)
