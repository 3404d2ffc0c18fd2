"""Folders published on a server that speaks the protocol of the Hub, and errors of one sentence."""

import json
import shutil
from pathlib import Path

import chex
import huggingface_hub
import pytest
from huggingface_hub import ModelCard, constants
from packaging.version import Version

import lit_jax
from lit_jax.__main__ import main
from lit_jax.hf import publish, save
from lit_jax.hf.hub import find
from lit_jax.hf.model_card import Card, Data, Evaluation, Tower, model_card
from lit_jax.utils import checksums
from lit_jax.utils.errors import ConfigError, WeightError
from tests import tiny
from tests.hub_server import Hub

pytestmark = pytest.mark.skipif(
    Version(huggingface_hub.__version__) < Version("2.2"),
    reason="before 2.2, huggingface_hub has cards looked at by huggingface.co itself, whatever the endpoint",
)
CARD = {
    "name": "tiny",
    "license": "mit",
    "vision": Tower("google/vit", "apache-2.0", "locked", hub_id="google/vit"),
    "text": Tower("org/bert", "mit", "tuned", hub_id="org/bert"),
    "data": Data("pairs", "cc0-1.0", hub_id="org/pairs"),
    "recipe": {"steps": 4},
    "evaluations": [
        Evaluation(
            "zero-shot-image-classification",
            "folder:pairs",
            "test",
            after={"top1": 0.5},
            chance={"top1": 0.1},
            intervals={"top1": [0.4, 0.6]},
            protocol="abc123",
        )
    ],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model with its card, and another one."""
    place = tmp_path_factory.mktemp("folders")
    for name, seed in (("model", 0), ("other", 1)):
        save.save(place / name, *tiny.dual(seed), tiny.processor())
        (place / name / "README.md").write_text(model_card(Card(**CARD)))
        checksums.write(place / name, without=["README.md"])
    return place


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with Hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", "write")
        huggingface_hub.utils.disable_progress_bars()
        yield server
        huggingface_hub.utils.enable_progress_bars()


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_a_folder_is_published_in_one_commit_and_loads_to_the_same_bits(hub, folders):
    url = lit_jax.publish(folders / "model", "me/tiny", message="First")
    repository = hub.repositories["me/tiny"]
    assert url == f"{hub.url}/me/tiny" and not repository.private
    assert repository.messages == ["initial commit", "First"]
    there = repository.files()
    for name, data in files(folders / "model").items():
        assert there[name] == data.replace(b"path/to/this/folder", b"me/tiny")
    assert b'from_pretrained("me/tiny")' in there["README.md"]
    _, params = lit_jax.load("me/tiny", revision="main")
    chex.assert_trees_all_equal(params, lit_jax.load(folders / "model")[1])


def test_the_published_card_says_what_was_measured_on_which_data(hub, folders):
    lit_jax.publish(folders / "model", "tiny")  # Under the name of the token's owner.
    data = ModelCard.load("me/tiny").data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "zero-shot-image-classification")
    assert (data.base_model, data.datasets) == (["google/vit", "org/bert"], ["org/pairs"])
    (result,) = data.eval_results
    assert (result.metric_value, result.metric_args) == (0.5, {"protocol": "abc123"})
    assert "| top1 | 0.500 | 0.100 | 0.400 to 0.600 |" in (folders / "model" / "README.md").read_text()


def test_the_same_model_is_published_again_and_another_only_with_overwrite(hub, folders, tmp_path):
    lit_jax.publish(folders / "model", "me/tiny")
    repository = hub.repositories["me/tiny"]
    shutil.copytree(folders / "model", tmp_path / "same")
    (tmp_path / "same" / "README.md").write_text(model_card(Card(**CARD | {"limitations": ["Small."]})))
    lit_jax.publish(tmp_path / "same", "me/tiny")
    assert len(repository.commits) == 3 and b"Small." in repository.files()["README.md"]
    with pytest.raises(
        ConfigError, match=r"me/tiny .* holds another model: its model\.safetensors .*--overwrite"
    ):
        lit_jax.publish(folders / "other", "me/tiny")
    assert len(repository.commits) == 3
    lit_jax.publish(folders / "other", "me/tiny", overwrite=True)
    there = repository.files()
    assert there["model.safetensors"] == (folders / "other" / "model.safetensors").read_bytes()


def test_overwriting_removes_files_of_the_old_model_and_keeps_other_files(hub, folders, tmp_path):
    save.save(tmp_path / "shards", *tiny.dual(), max_shard_size="50KB")
    (tmp_path / "shards" / "notes.txt").write_text("mine")
    lit_jax.publish(tmp_path / "shards", "me/tiny")
    assert "model.safetensors.index.json" in hub.repositories["me/tiny"].files()
    with pytest.raises(ConfigError, match="another model"):
        lit_jax.publish(folders / "other", "me/tiny")
    lit_jax.publish(folders / "other", "me/tiny", overwrite=True)
    there = hub.repositories["me/tiny"].files()
    assert set(there) == {*files(folders / "other"), "notes.txt", ".gitattributes"}


def test_publishing_to_a_branch_leaves_the_main_one_alone(hub, folders):
    lit_jax.publish(folders / "model", "me/tiny")
    url = lit_jax.publish(folders / "other", "me/tiny", revision="step-200")
    assert url.endswith("/me/tiny/tree/step-200")
    name, there = "model.safetensors", hub.repositories["me/tiny"]
    for folder, revision in (("model", "main"), ("other", "step-200")):
        assert there.files(revision)[name] == (folders / folder / name).read_bytes()
    with pytest.raises(ConfigError, match="another model"):
        lit_jax.publish(folders / "model", "me/tiny", revision="step-200")


def test_a_private_repository_is_created_and_a_public_one_is_never_used(hub, folders):
    lit_jax.publish(folders / "model", "me/hidden", private=True)
    assert hub.repositories["me/hidden"].private
    lit_jax.publish(folders / "model", "me/shown")
    with pytest.raises(ConfigError, match="me/shown exists and is public"):
        lit_jax.publish(folders / "model", "me/shown", private=True)


@pytest.mark.parametrize(
    ("token", "repo_id", "says"),
    [
        (None, "me/tiny", "there is no token .*hf auth login"),
        ("forged", "me/tiny", "refuses the token"),
        ("read", "me/tiny", "the token may only read"),
        ("stranger", "me/tiny", "the token may not write to me/tiny"),
        ("stranger", "me/there", "the token may not write to me/there"),
        ("write", "me//tiny", "me//tiny cannot be written"),
    ],
)
def test_a_token_that_may_not_write_changes_nothing(hub, folders, monkeypatch, token, repo_id, says):
    lit_jax.publish(folders / "model", "me/there")
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ConfigError, match=says) as raised:
        lit_jax.publish(folders / "model", repo_id, overwrite=True)
    assert "\n" not in str(raised.value) and "forged" not in str(raised.value)
    assert list(hub.repositories) == ["me/there"] and len(hub.repositories["me/there"].commits) == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"token": ""}, "the token is empty"),
        ({"token": "hf_secret\n"}, "another character that no token has"),
        ({"token": "hf_sécret"}, "another character that no token has"),
        ({"revision": ""}, "the revision is ''; wanted the name of a branch"),
        ({"revision": "new\nHeader: x"}, "wanted the name of a branch"),
    ],
)
def test_a_token_and_a_revision_that_no_request_can_hold_are_refused_without_showing_the_token(
    hub, folders, options, says
):
    for ask in (
        lambda: lit_jax.publish(folders / "model", "me/tiny", **options),
        lambda: find("me/tiny", **options),
    ):
        with pytest.raises(ConfigError, match=says) as raised:
            ask()
        assert "cret" not in str(raised.value)
    assert not hub.calls


def test_hidden_folders_of_tools_are_not_published(hub, folders, tmp_path):
    shutil.copytree(folders / "model", tmp_path / "model")
    for name in (
        ".git/config",
        ".cache/huggingface/x.lock",
        ".ipynb_checkpoints/README.md",
        "onnx/vision.onnx",
        ".gitignore",
    ):
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / name).write_text("x")
    lit_jax.publish(tmp_path / "model", "me/tiny")
    published = hub.repositories["me/tiny"].files()
    assert {"onnx/vision.onnx", ".gitignore", "config.json"} <= set(published)
    assert not [name for name in published if name.startswith(".") and "/" in name]


def test_what_the_hub_says_about_a_refusal_is_said(hub, folders):
    hub.broken["POST /api/models/me/tiny/commit"] = 400
    with pytest.raises(
        ConfigError, match="cannot be written on the Hugging Face Hub: broken on purpose; the repository"
    ):
        lit_jax.publish(folders / "model", "me/tiny")


def test_offline_mode_and_a_missing_connection_are_told_apart(hub, folders, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set"):
        lit_jax.publish(folders / "model", "me/tiny")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="cannot be reached"):
        lit_jax.publish(folders / "model", "me/tiny")


@pytest.mark.parametrize("at", ["PUT /upload", "POST /api/models/me/tiny/commit"])
def test_an_interrupted_upload_leaves_nothing_and_can_be_repeated(hub, folders, at):
    hub.broken[at] = 403
    with pytest.raises(ConfigError, match="the repository was created and is empty"):
        lit_jax.publish(folders / "model", "me/tiny")
    assert set(hub.repositories["me/tiny"].files()) == {".gitattributes"}
    hub.broken.clear()
    lit_jax.publish(folders / "model", "me/tiny")
    assert "config.json" in hub.repositories["me/tiny"].files()


def test_a_commit_that_somebody_else_makes_in_the_meantime_is_not_overwritten(hub, folders):
    lit_jax.publish(folders / "model", "me/tiny")
    place = publish.open_place("me/tiny", overwrite=True)
    repository = hub.repositories["me/tiny"]
    repository.commits.append(repository.files() | {"theirs.txt": b"here"})
    repository.branches["main"] = 2
    with pytest.raises(ConfigError, match=r"me/tiny .* has changed in the meantime"):
        place.upload(folders / "other")
    assert len(repository.commits) == 3


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("license: mit", "license: mti", r'refuses the metadata of .*README\.md: "license" must be one of'),
        ("license: mit", "license: [", r"the metadata of .*README\.md cannot be read"),
        ("      type: zero-shot-image-classification\n", "", r"the metadata of .*README\.md cannot be read"),
    ],
)
def test_a_card_that_the_hub_refuses_is_refused_before_anything_is_created(
    hub, folders, tmp_path, old, new, says
):
    shutil.copytree(folders / "model", tmp_path / "model")
    card = tmp_path / "model" / "README.md"
    assert old in card.read_text()
    card.write_text(card.read_text().replace(old, new, 1))
    with pytest.raises(ConfigError, match=says):
        lit_jax.publish(tmp_path / "model", "me/tiny")
    assert not hub.repositories


def test_a_damaged_folder_and_one_without_a_model_are_not_published(hub, folders, tmp_path):
    shutil.copytree(folders / "model", tmp_path / "model")
    with (tmp_path / "model" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"!")
    with pytest.raises(WeightError, match=r"model is damaged: model\.safetensors has another sha256"):
        lit_jax.publish(tmp_path / "model", "me/tiny")
    with pytest.raises(WeightError, match=r"is not a model folder"):
        lit_jax.publish(tmp_path, "me/tiny")
    assert not hub.calls


def test_push_to_hub_replaces_the_model_that_was_there(hub, folders):
    model = lit_jax.VisionTextDualEncoderModel.from_pretrained(folders / "model")
    lit_jax.publish(folders / "other", "me/tiny")
    url = model.push_to_hub("me/tiny", commit_message="Ours", token="write")
    there = hub.repositories["me/tiny"]
    assert url == f"{hub.url}/me/tiny" and there.messages[-1] == "Ours"
    assert there.files()["model.safetensors"] == (folders / "model" / "model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="me//model cannot be written"):
        model.push_to_hub("me//model")


def test_the_command_publishes_a_folder_as_it_is_or_says_why_it_cannot(hub, folders, capfd):
    def command(*args):
        with pytest.raises(SystemExit) as ended:
            main(["export", *map(str, args)])
        return ended.value.code, capfd.readouterr()

    status, said = command("--output", folders / "model", "--push-to-hub", "me/tiny", "--private")
    assert status == 0 and said.out == f"published {hub.url}/me/tiny\n"
    assert hub.repositories["me/tiny"].private
    for args, wanted in (
        (("--output", folders / "other", "--push-to-hub", "me/tiny"), "holds another model"),
        (("--output", folders / "other"), "--workdir is missing"),
        (("--output", "x", "--workdir", "w", "--private"), "need --push-to-hub"),
    ):
        status, said = command(*args)
        assert status == 2 and wanted in said.err and said.err.count("\n") == 1
    status, said = command("--output", "x", "--workdir", "w", "--measured", "none.json")
    assert (
        status == 3
        and "the result none.json cannot be read: No such file" in said.err
        and said.err.count("\n") == 1
    )
    assert len(hub.repositories["me/tiny"].commits) == 2


@pytest.mark.parametrize("layout", ["hf", "lit_jax", "towers", "sentence_transformers", "open_clip"])
def test_a_folder_of_every_layout_is_a_model_folder(layout, tmp_path):
    module, params = tiny.dual(vision=tiny.CLIP_VISION, text=tiny.CLIP_TEXT)
    save.save(tmp_path / "m", module, params, tiny.processor(), layout=layout)
    publish.check_folder(tmp_path / "m")


@pytest.mark.slow
def test_a_published_open_clip_folder_names_its_repository_and_its_checksums_hold(hub, tmp_path):
    module, params = tiny.dual(vision=tiny.CLIP_VISION)
    save.save(tmp_path / "m", module, params, tiny.processor(), layout="open_clip")
    (tmp_path / "m" / "README.md").write_text(model_card(Card(**CARD, layout="open_clip")))
    checksums.write(tmp_path / "m", without=["README.md"])
    lit_jax.publish(tmp_path / "m", "me/clip")
    there = hub.repositories["me/clip"].files()
    texts = json.loads(there["open_clip_config.json"])["model_cfg"]["text_cfg"]
    assert (texts["hf_model_name"], texts["hf_tokenizer_name"]) == ("me/clip", "me/clip")
    assert str(tmp_path).encode() not in b"".join(there.values())
    assert b'open_clip.get_tokenizer("hf-hub:me/clip")' in there["README.md"]
    _, read = lit_jax.load("me/clip", revision="main")  # Loading compares the checksums.
    assert read["logit_scale"] == params["logit_scale"]
    lit_jax.publish(tmp_path / "m", "me/clip")  # It is still the same model.
    assert len(hub.repositories["me/clip"].commits) <= 3
