"""The commands as a shell sees them: exit status, one sentence, files."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

import lit_jax
from lit_jax.__main__ import COMMANDS, listed
from lit_jax.evals.protocol import fingerprint
from lit_jax.models.composites import COMPOSITES
from lit_jax.tools.export import verify
from lit_jax.train.loop import train
from lit_jax.utils.errors import DataError, WeightError
from tests import tiny
from tests.cli import cli
from tests.hub_server import Hub

CONFIG = Path(lit_jax.__file__).parents[1] / "configs" / "lit_b16_bert.py"
QUICK = CONFIG.with_name("quickstart.py")


def config_file(folder, **changes):
    tree = json.dumps(tiny.config(folder, **changes))
    path = folder / "config.py"
    path.write_text(
        "import json\nfrom ml_collections import ConfigDict\n\n\n"
        f"def get_config():\n    return ConfigDict(json.loads({tree!r}))\n"
    )
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    train(tiny.config(folder, steps=4), folder / "run")
    return folder


def fits_a_screen(text):
    lines = text.splitlines()
    return len(lines) < 24 and max(map(len, lines)) <= 80  # One line is left for the prompt.


def test_all_commands_fit_on_a_screen():
    done = cli()
    assert done.returncode == 2 and fits_a_screen(done.stdout)
    names = [name for row, _ in listed() for name in row.split(", ")]
    assert sorted(names) == sorted(COMMANDS) and all(name in done.stdout for name in names)


def test_help_is_given_in_the_ways_that_people_ask_for_it():
    asked = (["help", "train"], ["train", "-h"]), (["help", "embed"], ["embed", "-h"]), (["help"], ["--help"])
    for words, others in asked:
        first, second = cli(*words), cli(*others)
        assert first.returncode == second.returncode == 0 and first.stdout == second.stdout != ""
    assert cli("-V").stdout == cli("--version").stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_on_one_screen(command):
    done = cli(command, "--help")
    assert done.returncode == 0 and fits_a_screen(done.stdout)
    assert done.stdout.startswith(f"Usage: lit-jax {command}")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["trian"], "no command 'trian'; did you mean train?"),
        (["--hlep"], "no command '--hlep'; did you mean --help?"),
        (["train", "--wordkir", "w"], "lit-jax: train: no option --wordkir; did you mean --workdir?"),
        (["train", "--workdir"], "lit-jax: train: --workdir wants a value"),
        (["classify"], "lit-jax: classify: PICTURES... is missing; see lit-jax classify --help"),
        (["classify", "a.png"], "lit-jax: classify: --model is missing; see"),
        (
            ["classify", "a.png", "--modle", "m"],
            "lit-jax: classify: no option --modle; did you mean --model?",
        ),
        (["classify", "a.png", "--model"], "lit-jax: classify: --model wants a value; see"),
        (
            ["search", "i", "--query", "x", "--top", "0"],
            "lit-jax: search: --top: 0 is not in the range x>=1; see",
        ),
        (["compare", "a", "b"], "lit-jax: compare: FIRST: file 'a' does not exist; see"),
        (
            ["evaluate", "--model", "m", "--shots", "x"],
            "lit-jax: evaluate: --shots: 'x' are not whole numbers",
        ),
        (["doctor", "--workdir", __file__], "lit-jax: doctor: --workdir: directory "),
        (
            ["quickstart", "--config", f"{QUICK}:smoke", "--workdir", "w", "--split", "x"],
            "split is by 'x'; wanted",
        ),
        (
            ["doctor", "here"],
            "lit-jax: doctor: got unexpected extra argument (here); did you mean --workdir here?",
        ),
        (["train", "--workdir", "w"], "train: --config is missing"),
        (["train", "--config", "nope.py", "--workdir", "w"], "config file nope.py does not exist"),
        (
            ["train", "--config", f"{CONFIG}:smkoe", "--workdir", "w"],
            "lit-jax: train: the config file: there is no argument 'smkoe'; wanted full or smoke",
        ),
    ],
)
def test_a_wrong_call_ends_with_status_2_and_one_line(args, message, tmp_path):
    done = cli(*args, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert message in done.stderr and done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = cli("train", "--config", config_file(tmp_path), "--workdir", tmp_path / "file" / "run")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and str(tmp_path / "file") in done.stderr


def test_train_runs_and_a_misspelt_field_is_refused_with_a_suggestion(tmp_path):
    path = config_file(tmp_path, mesh__data=-1)
    done = cli("train", "--config", path, "--workdir", tmp_path / "run", "--config.stepz", 3)
    assert done.returncode == 2 and "config.stepz does not exist; did you mean steps?" in done.stderr
    done = cli("train", "--config", path, "--workdir", tmp_path / "run", "--config.mesh.foozle", 3)
    assert done.returncode == 2 and "mesh.foozle does not exist; did you mean mesh." in done.stderr
    done = cli("train", "--config", path, "--workdir", tmp_path / "run", "--config.steps", 3)
    assert done.returncode == 0, done.stderr
    assert "step 3/3" in done.stderr


def test_the_status_says_what_kind_of_mistake_it_was(trained, tmp_path):
    path = config_file(tmp_path, data__train="folder:missing")
    assert cli("train", "--config", path, "--workdir", tmp_path / "run").returncode == 3
    assert cli("export", "--workdir", tmp_path, "--output", tmp_path / "out").returncode == 4
    damaged = config_file(tmp_path)
    (tmp_path / "v" / "model.safetensors").write_bytes(b"no")
    assert cli("train", "--config", damaged, "--workdir", tmp_path / "run").returncode == 4


def test_without_fallback_a_damaged_newest_checkpoint_ends_train_with_status_4(trained, tmp_path):
    from tests.faults.test_damage import arrays, flip

    shutil.copytree(trained / "run", tmp_path / "run")
    data = (tmp_path / "run/checkpoints/step_4/data/metadata").read_text()
    # It says what wrote it, without the folders of the machine.
    assert '"config"' in data and str(trained) not in data
    flip(arrays(tmp_path / "run" / "checkpoints" / "step_4"))
    path = config_file(trained, steps=4, mesh__data=-1)
    done = cli("train", "--config", path, "--workdir", tmp_path / "run", "--no-fallback")
    assert done.returncode == 4 and "step_4 is damaged" in done.stderr and "Traceback" not in done.stderr
    done = cli("export", "--workdir", tmp_path / "run", "--output", tmp_path / "out", "--step", 4)
    assert done.returncode == 4 and "step_4 is damaged" in done.stderr and not (tmp_path / "out").exists()


def test_export_and_evaluate_through_the_shell(trained, tmp_path):
    pytest.importorskip("torch", reason="--verify compares with PyTorch")
    done = cli(
        "export", "--workdir", trained / "run", "--output", tmp_path / "out", "--license", "mit", "--verify"
    )
    assert done.returncode == 0, done.stderr
    # No progress bar of transformers.
    assert "image_embeds" in done.stdout and "Loading weights" not in done.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "processor_config.json",
        "tokenizer.json",
        "README.md",
        "SHA256SUMS",
    }
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: mit" in card and str(tmp_path) not in card and str(trained) not in card

    labelled = tiny.write_pairs(tmp_path / "labelled", labels=True)
    done = cli(
        *("evaluate", "--model", tmp_path / "out", "--data", labelled),
        *("--tasks", "retrieval,zero_shot", "--json", tmp_path / "result.json"),
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert set(result["metrics"]) == {"retrieval", "zero_shot"}
    # The text length of training travels with the model.
    assert result["protocol"]["retrieval"]["text_length"] == 12
    assert 0 <= result["metrics"]["zero_shot"]["top1"] <= 1
    assert "zero_shot" in done.stdout and "chance" in done.stdout
    assert f"protocol {result['fingerprints']['zero_shot']}" in done.stdout and "95%" in done.stdout
    for task, metrics in result["metrics"].items():
        for name, (low, high) in result["intervals"][task].items():
            assert low <= metrics[name] <= high, name
    assert result["protocol"]["zero_shot"]["image_processor"]["size"] == {"height": 32, "width": 32}

    same = cli("compare", tmp_path / "result.json", tmp_path / "result.json")
    assert same.returncode == 0, same.stderr
    assert "paired" in same.stdout and "+0 to +0" in same.stdout

    done = cli(
        *("evaluate", "--model", tmp_path / "out", "--data", labelled, "--preset", "lit"),
        *("--tasks", "zero_shot", "--json", tmp_path / "lit.json"),
    )
    assert done.returncode == 0, done.stderr
    other = cli("compare", tmp_path / "result.json", tmp_path / "lit.json")
    assert other.returncode == 2
    assert (
        "canonical is prompts as they are and prompts in lower case" in other.stderr
        and "squares of side / 0.875, centre crop" in other.stderr
    )


@pytest.mark.slow
def test_a_run_is_exported_and_published_with_its_metrics_in_one_command(trained, tmp_path):
    result = {
        "data": "parquet:hf://datasets/org/pets/test",
        "bootstrap": {"draws": 1000, "level": 0.95, "seed": 0},
        "metrics": {"zero_shot": {"top1": 0.5}},
        "chance": {"zero_shot": {"top1": 0.1}},
        "intervals": {"zero_shot": {"top1": [0.4, 0.6]}},
        "protocol": {"zero_shot": {"task": "zero_shot"}},
        "fingerprints": {"zero_shot": fingerprint({"task": "zero_shot"})},
    }
    (tmp_path / "result.json").write_text(json.dumps(result))
    args = ("export", "--workdir", trained / "run", "--license", "mit", "--push-to-hub", "me/tiny")
    with Hub() as hub:
        settings = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        refused = cli(*args, "--output", tmp_path / "out", **settings, HF_TOKEN="read")
        assert refused.returncode == 2 and "may only read" in refused.stderr
        assert not hub.repositories and not (tmp_path / "out").exists()
        args += ("--measured", tmp_path / "result.json")
        done = cli(*args, "--output", tmp_path / "out", **settings, HF_TOKEN="write")
    assert done.returncode == 0, done.stderr
    assert f"published {hub.url}/me/tiny" in done.stdout
    files = hub.repositories["me/tiny"].files()
    assert files["model.safetensors"] == (tmp_path / "out" / "model.safetensors").read_bytes()
    card = ModelCard(files["README.md"].decode())
    (top1,) = [entry for entry in card.data.eval_results if entry.metric_type == "top1"]
    assert (top1.dataset_type, top1.metric_value) == ("org/pets", 0.5)
    assert len(card.data.eval_results) > 1  # Those of the run are there, too.
    assert card.data.license == "mit" and 'from_pretrained("me/tiny")' in card.text


def test_a_folder_that_pytorch_reads_differently_is_not_verified(trained, tmp_path):
    pytest.importorskip("torch", reason="--verify compares with PyTorch")
    from lit_jax.tools.export import export

    export(trained / "run", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] = 2
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightError, match="PyTorch does not read"):
        verify(tmp_path / "out", f"folder:{trained / 'pairs'}")


def test_verification_uses_the_captions_with_which_the_run_was_tested(trained, tmp_path):
    pytest.importorskip("torch", reason="--verify compares with PyTorch")
    from lit_jax.tools.export import export, test_data

    shutil.copytree(trained / "pairs", tmp_path / "pairs")
    rows = (tmp_path / "pairs" / "metadata.jsonl").read_text()
    (tmp_path / "pairs" / "metadata.jsonl").write_text(rows.replace('"captions"', '"gesagt"'))
    shutil.copytree(trained / "run", tmp_path / "run")
    recipe = json.loads((tmp_path / "run" / "config.json").read_text())
    recipe["data"] |= {"test": f"folder:{tmp_path / 'pairs'}", "caption": "gesagt"}
    (tmp_path / "run" / "config.json").write_text(json.dumps(recipe))
    export(trained / "run", tmp_path / "out")
    data, caption = test_data(tmp_path / "run")
    assert verify(tmp_path / "out", data, caption=caption).keys() >= {"image_embeds", "text_embeds"}
    with pytest.raises(DataError, match=r"caption"):
        verify(tmp_path / "out", data)


def test_export_never_overwrites(trained, tmp_path):
    (tmp_path / "mine").write_text("precious")
    done = cli("export", "--workdir", trained / "run", "--output", tmp_path)
    assert done.returncode == 2 and "not an empty folder" in done.stderr
    assert (tmp_path / "mine").read_text() == "precious"


@pytest.mark.slow
def test_prepare_writes_what_training_reads(tmp_path):
    pairs = tiny.write_pairs(tmp_path / "pairs")
    done = cli("prepare", pairs, "--output", tmp_path / "set", "--name", "shapes", "--split", "train")
    assert done.returncode == 0, done.stderr
    assert f"tfds:{tmp_path / 'set'}/train" in done.stdout
    (tmp_path / "c").mkdir()
    path = config_file(
        tmp_path / "c", data__train=f"tfds:{tmp_path / 'set'}/train", data__test="", mesh__data=-1
    )
    assert cli("train", "--config", path, "--workdir", tmp_path / "run").returncode == 0


@pytest.mark.slow
def test_the_quickstart_runs_on_ones_own_towers_and_pairs(tmp_path):
    vision, text = tiny.write_towers(tmp_path)
    pairs = tiny.write_pairs(tmp_path / "pairs", n=40)
    options = {
        "--workdir": tmp_path / "run",
        "--vision": vision,
        "--text": text,
        "--data": pairs,
        "--config.steps": 4,
        "--config.batch_size": 16,
        "--config.optim.warmup_steps": 1,
    }
    args = [str(word) for pair in options.items() for word in pair]
    done = cli("quickstart", *args)
    assert done.returncode == 0, done.stderr
    assert "before" in done.stdout and "chance" in done.stdout and "package index" not in done.stdout
    model = json.loads((tmp_path / "run" / "export" / "config.json").read_text())
    assert model["vision_config"]["hidden_size"] == 32 and model["projection_dim"] == 512
    following = done.stdout.partition("What to try next:\n")[2].splitlines()
    assert [shlex.split(line)[-1] for line in following[:1]] == [f"tfds:{tmp_path}/run/data/train[80%:]"]
    for line in following[:3]:  # The last serves a page until it is stopped.
        words = shlex.split(line)
        tried = cli(*words[words.index("lit_jax" if "lit_jax" in words else "lit-jax") + 1 :])
        assert tried.returncode == 0, tried.stderr
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    again = cli("quickstart", *args)
    assert again.returncode == 0 and (tmp_path / "run" / "metrics.jsonl").read_text().splitlines() == lines


@pytest.mark.slow
def test_towers_that_transformers_cannot_hold_are_trained_exported_and_evaluated(tmp_path):
    tiny.write_towers(tmp_path, vision=tiny.SWIN, text=tiny.DISTILBERT)
    tiny.write_pairs(tmp_path / "pairs")
    options = {"model__text_pooling": "mean", "model__lock_towers": "UU", "data__test": ""}
    train(tiny.config(tmp_path, steps=4, **options), tmp_path / "run")

    export = ("export", "--workdir", tmp_path / "run", "--output", tmp_path / "out")
    done = cli(*export)
    assert done.returncode == 4 and done.stderr.count("\n") == 1
    assert "'distilbert' has no place" in done.stderr and "--layout lit_jax" in done.stderr
    assert not (tmp_path / "out").exists()
    done = cli(*export, "--layout", "lit_jax")
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "out" / "README.md").read_text()
    assert "from lit_jax import VisionTextDualEncoderModel" in card and "In PyTorch" not in card
    result = tmp_path / "result.json"
    pairs = f"folder:{tmp_path / 'pairs'}"
    done = cli("evaluate", "--model", tmp_path / "out", "--data", pairs, "--json", result)
    assert done.returncode == 0, done.stderr
    assert 0 <= json.loads(result.read_text())["metrics"]["retrieval"]["image_to_text_recall@1"] <= 1
    export = ("export", "--workdir", tmp_path / "run", "--output", tmp_path / "st")
    done = cli(*export, "--layout", "sentence_transformers")
    assert done.returncode == 0, done.stderr
    assert "library_name: sentence-transformers" in (tmp_path / "st" / "README.md").read_text()
    for vectors in ("texts", "pictures"):
        inputs = ["a red square"] if vectors == "texts" else pairs
        got, want = (getattr(lit_jax.Embedder(tmp_path / name), vectors)(inputs) for name in ("st", "out"))
        np.testing.assert_array_equal(got, want)


def test_a_run_given_as_a_model_is_exported_by_the_suggested_command(trained, tmp_path):
    out = tmp_path / "out"
    done = cli("evaluate", "--model", trained / "run", "--data", f"folder:{trained / 'pairs'}")
    assert done.returncode == 4 and f"{trained / 'run'} is a run and not a model" in done.stderr
    command = re.search(r"`lit-jax (.*?)`", done.stderr)[1].replace(" DIR", f" {out}")
    done = cli(*command.split())
    assert done.returncode == 0, done.stderr
    lit_jax.load(out)
    done = cli("report", "--workdir", out)
    assert done.returncode == 4 and f"{out} is a model and not a run" in done.stderr


def test_the_encoders_are_listed_as_a_table_and_as_json():
    from lit_jax.models.encoders import TEXT, VISION

    done = cli("encoders", "--json")
    rows = {row["type"]: row for row in json.loads(done.stdout)}
    assert rows.keys() == {*VISION, *TEXT}
    assert rows["swin"]["tower"] == "vision" and rows["swin"]["exportable"] == ["4.57", "5"]
    assert rows["distilbert"]["exportable"] == [] and rows["distilbert"]["parity"] == 1e-5
    models = {row["type"]: row for row in json.loads(cli("encoders", "--models", "--json").stdout)}
    assert models.keys() == COMPOSITES.keys()
    assert models["siglip"]["class"] == "SiglipModel" and models["hybrid-clip"]["vision"] == "any"
    every = {row["type"]: row["read"] for row in json.loads(cli("encoders", "--all", "--json").stdout)}
    assert every["swin"] == "yes" and every["whisper"] == "audio" and every["clip"].startswith("yes, ")
    assert cli("encoders", "--all", "--models").returncode == 2
    lines = cli("encoders").stdout.splitlines()
    assert len(lines) == len(rows) + 2
    assert next(line for line in lines if line.startswith("distilbert")).split()[1:3] == ["text", "no"]


@pytest.mark.slow
def test_a_train_command_that_gets_sigterm_saves_and_exits_with_status_42(tmp_path):
    args = ["--config", f"{CONFIG}:smoke", "--config.steps", "100000", "--workdir", tmp_path / "run"]
    run = subprocess.Popen(
        [sys.executable, "-m", "lit_jax", "train", *map(str, args)], stderr=subprocess.PIPE, text=True
    )
    metrics, deadline = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 300
    while not (metrics.is_file() and '"step": 10' in metrics.read_text()) and time.monotonic() < deadline:
        time.sleep(0.2)
    told = time.monotonic()
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 42 and time.monotonic() - told < 30
    assert "told to end (SIGTERM)" in said.splitlines()[-1] and "start again" in said.splitlines()[-1]
    done = cli("doctor", "--workdir", tmp_path / "run")
    assert done.returncode == 0 and "training would resume from step" in done.stdout
