"""Ten thousand hostile inputs per target: each is read, or ends in a documented error. Run with -m slow."""

import json
import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lit_jax.hf import model_folder
from lit_jax.models.dual_encoder import DualEncoderConfig
from lit_jax.utils.errors import DataError, WeightError
from tests import tiny
from tests.inference import test_index_files as any_index
from tests.inference import test_json_sets

pytestmark = pytest.mark.slow
many = settings(
    max_examples=10_000,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.function_scoped_fixture,
        HealthCheck.data_too_large,
    ],
)

scalars = st.none() | st.booleans() | st.integers() | st.integers(-2, 64) | st.floats() | st.text(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
TOWERS = {
    "vision": [
        tiny.VIT,
        tiny.DEIT,
        tiny.BEIT,
        tiny.DINOV2,
        tiny.DINOV3,
        tiny.SWIN,
        tiny.SWINV2,
        tiny.CLIP_VISION,
    ],
    "text": [
        tiny.BERT,
        tiny.ROBERTA,
        tiny.MPNET,
        tiny.ALBERT,
        tiny.DISTILBERT,
        tiny.DEBERTA_V2,
        tiny.MODERNBERT,
        tiny.T5,
        tiny.M2M_100,
        tiny.NOMIC_BERT,
        tiny.QWEN3,
        tiny.LLAMA,
        tiny.MISTRAL,
        tiny.GEMMA2,
        tiny.GEMMA3_TEXT,
    ],
}


@st.composite
def towers(draw, tower):
    config = dict(draw(st.sampled_from(TOWERS[tower])))
    for name in draw(st.lists(st.sampled_from(sorted(config)), max_size=3)):
        config[name] = draw(values)
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@many
@given(
    towers("vision"),
    towers("text"),
    st.dictionaries(
        st.sampled_from(
            [
                "projection_dim",
                "logit_scale_init_value",
                "logit_bias",
                "model_type",
                "vision_config",
                "text_config",
            ]
        ),
        values,
        max_size=2,
    ),
)
def test_config_json(folder, vision, text, heads):
    whole = {"model_type": "vision-text-dual-encoder", "vision_config": vision, "text_config": text} | heads
    (folder / "config.json").write_text(json.dumps(whole))
    try:
        config = DualEncoderConfig.from_hf(model_folder.read_config(folder))
    except WeightError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
    else:
        written = config.to_hf() | {"logit_bias": config.logit_bias_init_value}
        assert DualEncoderConfig.from_hf(written) == config


@many
@given(st.binary(max_size=200) | values.map(lambda tree: json.dumps(tree).encode()))
def test_config_json_of_any_bytes(folder, content):
    (folder / "config.json").write_bytes(content)
    try:
        DualEncoderConfig.from_hf(model_folder.read_config(folder))
    except WeightError as error:
        assert "\n" not in str(error)


entries = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "F16", "F8_E4M3", "I64", "BOOL", "C64", "X", ""]) | values,
        "shape": st.lists(st.integers(0, 5) | st.integers(), max_size=4) | values,
        "data_offsets": st.lists(st.integers(0, 64) | st.integers(), min_size=2, max_size=2) | values,
        "more": values,
    },
)


@st.composite
def safetensors(draw):
    """A nearly valid header, a length that may be wrong, and a body."""
    header = draw(
        st.dictionaries(st.text(max_size=6) | st.just("__metadata__"), entries | values, max_size=4)
    )
    text = json.dumps(header).encode() + draw(st.binary(max_size=4))
    size = draw(st.just(len(text)) | st.integers(0, 2**64 - 1) | st.integers(0, 300))
    return struct.pack("<Q", size) + text + draw(st.binary(max_size=80))


@many
@given(safetensors() | st.binary(max_size=120))
def test_safetensors_files(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    try:
        tensors = model_folder.Tensors.of(folder)
        for name in tensors:
            assert isinstance(tensors[name], np.ndarray)
    except WeightError as error:
        assert "model.safetensors" in str(error)


@many
@given(st.data())
def test_a_safetensors_file_with_a_few_bytes_changed(folder, data):
    model_folder.write(folder, {}, {"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.float16)})
    content = bytearray((folder / "model.safetensors").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / "model.safetensors").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        tensors = model_folder.Tensors.of(folder)
        assert all(tensors[name].nbytes <= 64 for name in tensors)
    except WeightError as error:
        assert "model.safetensors" in str(error)


names = st.text(max_size=8) | st.sampled_from(
    ["../x", "/etc/passwd", ".", "..", "a\0b", "s.safetensors", "x/y", "\ud800"]
)


@many
@given(
    st.fixed_dictionaries(
        {"weight_map": st.dictionaries(st.text(max_size=6), names | values, max_size=4) | values}
    )
    | values
)
def test_index_files(folder, index):
    place = folder / "indexed"
    if not place.exists():
        model_folder.write(place, {}, {"a": np.ones(3, np.float32)})
        (place / "model.safetensors").rename(place / "s.safetensors")
    (place / "model.safetensors.index.json").write_text(json.dumps(index))
    try:
        assert set(model_folder.Tensors.of(place)) == {"a"}
    except WeightError as error:
        assert "index.json" in str(error)


@pytest.fixture(scope="module")
def tokenize():
    from lit_jax.data.transforms.tokenizer import make_tokenize

    return make_tokenize(tiny.tokenizer(), 12)


caption = st.text(st.characters(exclude_categories=()), max_size=60)  # Lone surrogates too.


@many
@given(
    texts=st.lists(
        caption | st.just("[SEP] [CLS] red \0\u202e") | st.text("a \t\n\x00", max_size=4000), max_size=4
    )
)
def test_captions(tokenize, texts):
    try:
        found = tokenize(texts)
    except DataError:
        return
    assert found["input_ids"].shape == (len(texts), 12)
    assert ((found["input_ids"] >= 0) & (found["input_ids"] < len(tiny.WORDS))).all()
    assert found["attention_mask"].any(axis=1).all()


@many
@given(values | st.binary(max_size=30) | st.lists(caption, max_size=3))
def test_captions_of_any_kind_in_a_record(value):
    from lit_jax.data.sources.base import check_caption

    with suppress(DataError):
        assert isinstance(check_caption(value), str)


@many
@given(st.lists(values | caption, max_size=6))
def test_the_usable_captions_of_a_record(captions):
    from lit_jax.data.captions import usable_captions

    try:
        usable = usable_captions(captions)
    except DataError as error:
        assert "\n" not in str(error)
        return
    rest = iter(captions)
    assert usable and all(isinstance(text, str) and any(text is other for other in rest) for text in usable)


@many
@given(ending=st.sampled_from([".json", ".txt"]), content=test_json_sets.contents)
def test_files_of_templates_and_class_names(folder, ending, content):
    test_json_sets.read_templates_and_names(folder, ending, content)


@many
@given(drawn=any_index.indexes())
def test_indexes_of_embedded_pictures(folder, drawn):
    any_index.read_any(folder / "index", drawn)


@pytest.fixture(scope="module")
def pictures():
    """One small picture in every format and several modes."""
    import io

    from PIL import Image

    rng, files = np.random.default_rng(0), []
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"):
        for mode in ("RGB", "L", "P", "RGBA", "1", "I;16"):
            image = Image.fromarray(rng.integers(0, 255, (9, 7, 3), np.uint8)).convert("RGB")
            out = io.BytesIO()
            try:
                grey = Image.fromarray(rng.integers(0, 65535, (9, 7)).astype(np.uint16))
                (grey if mode == "I;16" else image.convert(mode)).save(out, kind)
            except (OSError, ValueError):
                continue
            files.append(out.getvalue())
    assert len(files) > 15
    return files


@many
@given(data=st.data())
def test_pictures(pictures, data):
    from lit_jax.data.transforms.image_files import open_image

    content = bytearray(data.draw(st.sampled_from(pictures)))
    for _ in range(data.draw(st.integers(0, 6))):
        content[data.draw(st.integers(0, min(len(content) - 1, 400)))] = data.draw(st.integers(0, 255))
    try:
        image = open_image(bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))]))
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert image.mode == "RGB" and image.size[0] * image.size[1] <= 64_000_000


@many
@given(content=st.binary(max_size=300))
def test_pictures_of_any_bytes(content):
    from lit_jax.data.transforms.image_files import open_image

    with pytest.raises(DataError):
        open_image(content)
