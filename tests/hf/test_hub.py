"""Where model folders come from, and which files of a repository are downloaded."""

import huggingface_hub
import pytest
from huggingface_hub.errors import HTTPError

from lit_jax.hf import hub, model_folder
from lit_jax.utils.errors import WeightError
from tests.hf.test_model_folder import put

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """A repository on the Hub: a download copies what its patterns allow into the snapshot."""

    def __init__(self, folder, *files):
        self.folder, self.files, self.calls = folder / "snapshots" / COMMIT, files, []

    def __call__(self, repository, *, revision, token, allow_patterns, ignore_patterns):
        self.calls.append((repository, revision, token))
        filtered = huggingface_hub.utils.filter_repo_objects(
            self.files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        )
        for name in filtered:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text("{}")
        return str(self.folder)

    def fetched(self):
        return sorted(
            path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()
        )


CODE = [
    "modeling.py",
    "tf_model.h5",
    "onnx/model.onnx",
    "coreml/model.safetensors",
    "rust_model.ot",
    "README.md",
]
SMALL = ["config.json", "vocab.txt", "spiece.model"]
FLAX = ["flax_model.msgpack"]
FLAX_SHARDS = ["flax_model-00001-of-00001.msgpack", "flax_model.msgpack.index.json"]
PICKLE = ["pytorch_model.bin"]
PICKLE_SHARDS = ["pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"]


@pytest.mark.parametrize("allow_pickle", [False, True])
@pytest.mark.parametrize(
    ("weights", "wanted", "wanted_with_pickle"),
    [
        (["model.safetensors", *FLAX, *PICKLE], ["model.safetensors"], ["model.safetensors"]),
        (
            ["x.safetensors", "model.safetensors.index.json", *FLAX, *PICKLE],
            ["x.safetensors", "model.safetensors.index.json"],
            ["x.safetensors", "model.safetensors.index.json"],
        ),
        ([*FLAX, *PICKLE], FLAX, FLAX),
        ([*FLAX_SHARDS, *PICKLE], FLAX_SHARDS, FLAX_SHARDS),
        ([*PICKLE, "training_args.bin"], [], PICKLE),
        (PICKLE_SHARDS, PICKLE_SHARDS[1:], PICKLE_SHARDS),
        (["adapter_model.safetensors", "adapter_model.bin"], *[["adapter_model.safetensors"]] * 2),
        (["adapter_model.bin"], [], ["adapter_model.bin"]),
        ([], [], []),
    ],
)
def test_only_the_first_kind_of_weights_is_fetched(
    weights, wanted, wanted_with_pickle, allow_pickle, tmp_path, monkeypatch
):
    fake = FakeHub(tmp_path, *CODE, *SMALL, *weights)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    folder = hub.find("someone/model", revision="v1", token="secret", allow_pickle=allow_pickle)
    assert folder == fake.folder
    assert fake.fetched() == sorted(SMALL + (wanted_with_pickle if allow_pickle else wanted))
    # All later downloads use the commit of the first one.
    assert fake.calls[0] == ("someone/model", "v1", "secret")
    assert all(call == ("someone/model", COMMIT, "secret") for call in fake.calls[1:])
    assert len(fake.calls) == 1 or not any(name.startswith("model.") for name in weights)


@pytest.mark.parametrize("allow_pickle", [False, True])
def test_the_folders_of_the_modules_of_sentence_transformers_are_fetched_too(
    allow_pickle, tmp_path, monkeypatch
):
    modules = [
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
        "heads/config.json",
    ]
    modules += ["image_0_Transformer/preprocessor_config.json", "text_0_Transformer/tokenizer.json"]
    root = ["modules.json", "config.json", "model.safetensors"]
    others = ["onnx/model.onnx", "onnx/config.json", "openvino/model.safetensors", "1_Pooling/code.py"]
    fake = FakeHub(tmp_path, *root, *modules, *others, "2_Dense/pytorch_model.bin")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    hub.find("someone/model", allow_pickle=allow_pickle)
    assert fake.fetched() == sorted(root + modules + ["2_Dense/pytorch_model.bin"] * allow_pickle)


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        (["model.safetensors"], []),
        (FLAX, []),
        (["modules.json", "0_CLIPModel/preprocessor_config.json", "0_CLIPModel/model.safetensors"], slice(2)),
        (["open_clip_config.json", "model.safetensors", "open_clip_model.safetensors"], slice(2)),
        (["open_clip_config.json", "open_clip_model.safetensors"], slice(2)),
    ],
    ids=str,
)
def test_weights_stay_on_the_hub_unless_they_decide_which_config_counts(files, wanted, tmp_path, monkeypatch):
    fake = FakeHub(tmp_path, *SMALL, *files)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    assert hub.find_processor("someone/model") == fake.folder
    assert fake.fetched() == sorted(SMALL + (files[wanted] if wanted else []))


def test_the_error_says_which_weights_are_not_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", FakeHub(tmp_path, *SMALL, *PICKLE))
    with pytest.raises(
        WeightError, match=r"neither model\.safetensors.*it has config\.json.*allow_pickle=True"
    ):
        model_folder.Tensors.of(hub.find("someone/model"))


@pytest.mark.parametrize(("weights", "allow_pickle"), [(FLAX, False), (PICKLE, True)])
def test_the_cache_serves_every_format_offline(weights, allow_pickle, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--someone--model"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (snapshot / "config.json").write_text("{}")
    put(snapshot, weights[0], 5)
    assert huggingface_hub.constants.is_offline_mode()
    assert hub.find("someone/model", allow_pickle=allow_pickle) == snapshot
    assert model_folder.Tensors.of(snapshot, allow_pickle=allow_pickle)["a"][0] == 5


def test_a_model_that_is_not_cached_is_an_error_offline(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightError, match="someone/absent is neither a local folder nor available"):
        hub.find("someone/absent")


@pytest.mark.parametrize("answer", ["the server cannot be reached", None])
def test_without_a_connection_the_files_of_a_commit_come_from_the_cache(answer, tmp_path, monkeypatch):
    """Also where huggingface_hub, before 2.2, asks the Hub for the list of files of the commit."""
    fake = FakeHub(tmp_path, *SMALL, *FLAX)

    def download(*args, revision, local_files_only=False, force_download=False, **options):
        if revision == COMMIT and not local_files_only:
            raise HTTPError("no connection")
        return fake(*args, revision=revision, **options)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(hub, "unreachable", lambda url: answer)
    if answer:
        assert hub.find("someone/model", force_download=True) == fake.folder
        assert fake.fetched() == sorted([*SMALL, *FLAX])
    else:
        with pytest.raises(WeightError, match=r"no connection$"):
            hub.find("someone/model")


@pytest.mark.parametrize("error", [HTTPError("the connection was cut\nhere"), OSError()], ids=repr)
def test_an_interrupted_download_is_an_error_of_one_sentence(error, monkeypatch):
    def download(*args, **options):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(WeightError, match=r"the Hugging Face Hub: (the connection was cut|OSError)$"):
        hub.find("someone/model")


@pytest.mark.parametrize(
    "name",
    ["x" * 300, "x" * 97, "~nobody_of_that_name/model", "a/b/c"],
    ids=["no path", "no id", "no user", "no repository"],
)
def test_a_name_that_is_neither_a_folder_nor_an_id_is_an_error_of_one_sentence(name):
    with pytest.raises(WeightError, match="does not exist; give an existing folder or a Hub id"):
        hub.find(name)


OTHER_WEIGHTS = [
    "model.fp16.safetensors",
    "model.fp16-00001-of-00002.safetensors",
    "model-00001-of-00002.fp16.safetensors",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "flax_model.bf16.msgpack",
    "pytorch_model.fp16.bin",
]


@pytest.mark.parametrize(
    "weights",
    [
        ["model.safetensors"],
        ["model-00001-of-00002.safetensors", "model.safetensors.index.json"],
        FLAX,
        PICKLE,
    ],
)
def test_only_one_of_several_files_with_the_same_weights_is_fetched(weights, tmp_path, monkeypatch):
    fake = FakeHub(tmp_path, *SMALL, *weights, *OTHER_WEIGHTS)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    hub.find("someone/model", allow_pickle=True)
    assert fake.fetched() == sorted([*SMALL, *weights])


OPEN_CLIP = ["open_clip_config.json", "open_clip_model.safetensors", "open_clip_pytorch_model.bin"]


@pytest.mark.parametrize(
    ("weights", "pickles", "wanted"),
    [
        (OPEN_CLIP[1:], True, OPEN_CLIP[1:2]),
        (OPEN_CLIP[2:], True, OPEN_CLIP[2:]),
        (OPEN_CLIP[2:], False, []),
        ([*OPEN_CLIP[1:], "model.safetensors"], True, ["model.safetensors"]),
        ([OPEN_CLIP[1], *PICKLE], True, OPEN_CLIP[1:2]),
    ],
)
def test_only_the_first_weights_of_open_clip_are_fetched(weights, pickles, wanted, tmp_path, monkeypatch):
    fake = FakeHub(tmp_path, *SMALL, OPEN_CLIP[0], *weights)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    hub.find("someone/model", allow_pickle=pickles)
    assert fake.fetched() == sorted([*SMALL, OPEN_CLIP[0], *wanted])


@pytest.mark.parametrize("subfolder", ["text", "towers/text"])
@pytest.mark.parametrize("weights", [["model.safetensors"], FLAX, PICKLE])
def test_only_the_subfolder_of_a_repository_is_fetched(subfolder, weights, tmp_path, monkeypatch):
    names = [*SMALL, *weights, "model.fp16.safetensors", "more/config.json"]
    fake = FakeHub(tmp_path, *CODE, *names, *(f"{subfolder}/{name}" for name in names))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    folder = hub.find("someone/model", subfolder=subfolder, allow_pickle=True)
    assert folder == fake.folder / subfolder
    assert fake.fetched() == sorted(f"{subfolder}/{name}" for name in [*SMALL, *weights])


def test_a_subfolder_that_does_not_exist_is_refused_with_those_that_do(tmp_path):
    (tmp_path / "m/text").mkdir(parents=True)
    assert hub.find(tmp_path / "m", subfolder="text") == tmp_path / "m/text"
    with pytest.raises(WeightError, match="has no subfolder vision; its folders are: text"):
        hub.find(tmp_path / "m", subfolder="vision")


@pytest.mark.parametrize("subfolder", ["..", "text/../..", "/etc", "./text"])
def test_a_subfolder_outside_its_folder_is_refused(subfolder, tmp_path):
    with pytest.raises(WeightError, match="wanted the path of a folder inside"):
        hub.find(tmp_path, subfolder=subfolder)


def test_the_hub_is_asked_as_the_keywords_say(tmp_path, monkeypatch):
    asked = []

    def download(repository, **options):
        asked.append(options)
        return str(tmp_path)

    (tmp_path / "model.safetensors").write_text("")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    hub.find("someone/model", cache_dir=tmp_path, local_files_only=True, force_download=True)
    hub.find("someone/model")
    wanted = {"cache_dir": tmp_path, "local_files_only": True, "force_download": True}
    assert wanted.items() <= asked[0].items() and not wanted.keys() & asked[1].keys()


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (
            ["config.json", "model-Q4_K_M.gguf"],
            r"it holds a file of llama\.cpp \(model-Q4_K_M\.gguf\): give the",
        ),
        (
            ["config.json", "onnx/model.onnx"],
            r"it holds a program of ONNX \(onnx/model\.onnx\): give the model",
        ),
        (["config.json", "weights.npz"], r"it holds a file of MLX \(weights\.npz\): give the model that"),
        (["config.json", "a.mlpackage/Manifest.json"], "it holds a program of Core ML"),
        (["model.gguf"], r"it holds a file of llama\.cpp"),
        (
            ["README.md", "a/config.json"],
            r"it holds README\.md, a/config\.json; give a repository with a config",
        ),
        ([], "it holds no files; give a repository"),
    ],
)
def test_the_format_of_a_repository_that_is_not_read_is_named(files, says, tmp_path, monkeypatch):
    fake = FakeHub(tmp_path, *files)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda *_, **__: [".gitattributes", *files])
    with pytest.raises(
        WeightError, match=rf"model someone/model on the Hub has no model\.safetensors; {says}"
    ):
        hub.find("someone/model")


@pytest.mark.parametrize("other", [PICKLE, ["config.json"]])
def test_a_repository_without_readable_weights_is_still_found(other, tmp_path, monkeypatch):
    fake = FakeHub(tmp_path, *SMALL, *other, "tf_model.h5") if other is PICKLE else FakeHub(tmp_path, *SMALL)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda *_, **__: fake.files)
    assert hub.find("someone/model") == fake.folder


def test_a_user_without_a_home_is_told_why_nothing_can_be_fetched(monkeypatch):
    def download(*args, **options):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(WeightError, match=r"available on the Hugging Face Hub: Could not determine home"):
        hub.find("nobody/model")
    assert hub.cached("nobody/model") is None
