"""README.md and docs/ work as written: every Python block, every command; nothing is downloaded."""

import inspect
import io
import json
import re
import shlex
import signal
import sys
from contextlib import redirect_stdout
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import pytest
from PIL import Image

import lit_jax
from lit_jax import __main__ as shell
from lit_jax.data.sources.registry import open_source
from lit_jax.hf.facade.model import FlaxVisionTextDualEncoderModel
from lit_jax.utils.errors import ConfigError
from tests.hf.formats.test_flax_msgpack import as_flax, write_msgpack

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
TARGETS = re.compile(r"^make (\w+)", re.M)
ROW = re.compile(r"^\| `lit-jax ([^`]+)` \|", re.M)

# A row of the table of commands -> what is run for it, in this order, in one folder. Nothing else goes into it.
CONFIG = ROOT / "configs" / "quickstart.py"
RUN = {
    "quickstart --workdir DIR": f"quickstart --workdir quickstart_run --config {CONFIG}:smoke --config.steps 12",
    "train --config FILE --workdir DIR [--config.a.b VALUE]": (
        f"train --config {CONFIG}:smoke --workdir quickstart_run --config.steps 12"
    ),
    "evaluate --model DIR_OR_ID --data SOURCE": (
        "evaluate --model quickstart_run/export --data shapes:64/test "
        "--tasks retrieval,zero_shot --preset lit --json A.json"
    ),
    "compare A.json B.json": "compare A.json A.json",
    "classify PICTURE... --model DIR_OR_ID --labels a,b,c": (
        "classify quickstart_run/emoji/test/1F431.png --model quickstart_run/export --labels red,green --prompts photo"
    ),
    "embed PICTURES --model DIR_OR_ID --output INDEX": (
        "embed folder:quickstart_run/emoji/test --model quickstart_run/export --output index"
    ),
    'search INDEX --query "..."': 'search index --query "a red circle"',
    # Served in tests/tools/demo; an unknown option is refused before the help is shown.
    "demo --model DIR_OR_ID [--index INDEX --pictures SOURCE]": (
        "demo --model quickstart_run/export --index index --pictures folder:quickstart_run/emoji/test --help"
    ),
    "serve --model DIR_OR_ID [--index INDEX]": "serve --model quickstart_run/export --index index --help",
    "export --workdir DIR --output DIR [--verify] [--push-to-hub ID]": (
        "export --workdir quickstart_run --output exported"
    ),
    "convert IN OUT [--layout NAME]": "convert quickstart_run/export converted --layout lit_jax",
    "blend A B --alpha X --output DIR": "blend quickstart_run/export exported --alpha 0.5 --output blended",
    "align VISION TEXT SOURCE --workdir DIR": "align a b c --workdir d --help",  # Run in test_align.py.
    "grid --workdir DIR": "grid --workdir grid_run --help",  # Run in tests/tools/grid/test_grid.py.
    "report --workdir DIR": "report --workdir quickstart_run",
    "plan --config FILE [--topology v5e:2x4]": f"plan --config {CONFIG.parent / 'lit_b16_bert.py'} --parameters",
    "doctor [--workdir DIR]": "doctor --workdir quickstart_run",
    "encoders": "encoders",
    "prepare SOURCE --output DIR --name NAME --split SPLIT": (
        "prepare shapes:8/train --output set --name shapes --split train --processes 1"
    ),
    "score SOURCE --model DIR_OR_ID --output DIR": (
        "score shapes:8/train --model quickstart_run/export --output scores"
    ),
    "filter SOURCE --scores DIR --min X --output DIR": (
        "filter shapes:8/train --scores scores --top-share .5 --output kept --processes 1"
    ),
    "inspect SOURCE [--sheet PNG]": "inspect shapes:20/train --sheet sheet.png",
}


def blocks(name, language):
    return [body for kind, body in FENCE.findall((ROOT / name).read_text()) if kind == language]


def lit_jax_says(line):
    """Runs a command in this process and returns what it prints. Any status but 0 fails."""
    text = io.StringIO()
    handler = signal.getsignal(signal.SIGTERM)
    with redirect_stdout(text), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lit-jax", *shlex.split(line)])
        try:
            shell.main()
        except SystemExit as ended:
            assert not ended.code, line
        finally:
            # A process of its own ignores the signal once its command has ended.
            signal.signal(signal.SIGTERM, handler)
    return text.getvalue()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a `quickstart_run` of a few steps; its pictures are drawings with the file names of emoji."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LIT_JAX_TORCH", "1")
        lit_jax_says(RUN["quickstart --workdir DIR"])
        pictures = Path("quickstart_run/emoji/test")
        pictures.mkdir(parents=True)
        codes = ("1F431", "1F683", "1F40C")
        for code, record in zip(codes, open_source("shapes:3/test"), strict=True):
            (pictures / f"{code}.png").write_bytes(record["image"])
        rows = [{"file_name": f"{code}.png", "captions": ["a name"], "id": code} for code in codes]
        (pictures / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        lit_jax_says("export --workdir quickstart_run --output towers --layout towers")
        yield folder


def run_blocks(sources, home, **names):
    """Runs one source after another in one namespace; Hub ids in them are replaced by the towers in `home`."""
    for source in sources:
        for id, tower in (
            ("google/vit-base-patch16-224-in21k", "vision"),
            ("google-bert/bert-base-uncased", "text"),
        ):
            source = source.replace(id, str(home / "towers" / tower))
        exec(compile(source, "README", "exec"), names)
    return names


def test_the_readme_is_short_and_names_two_make_targets():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    targets = {name for block in blocks("README.md", "sh") for name in TARGETS.findall(block)}
    assert targets == {"quickstart", "test"}
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)


def test_every_command_is_in_the_readme_and_runs_as_written(home, monkeypatch):
    rows = ROW.findall((ROOT / "README.md").read_text())
    assert {row.split()[0] for row in rows} == set(shell.COMMANDS)
    assert set(rows) == set(RUN), "the table of RUN is not that of the README"
    monkeypatch.chdir(home)
    said = {row: lit_jax_says(line) for row, line in RUN.items() if not row.startswith("quickstart")}
    assert all(said[row] for row in RUN if row.split()[0] not in ("quickstart", "train"))
    assert "zero_shot" in said["evaluate --model DIR_OR_ID --data SOURCE"]
    assert Path("sheet.png").is_file() and Path("exported/model.safetensors").is_file()


def test_the_python_of_the_readme_runs_as_written(home, monkeypatch):
    monkeypatch.chdir(home)
    first, second, third = blocks("README.md", "python")
    assert len(first.splitlines()) <= 20
    said = io.StringIO()
    with redirect_stdout(said):
        names = run_blocks([first, second], home)
        inputs = names["inputs"]
        images = jnp.asarray(inputs["pixel_values"].transpose(0, 2, 3, 1))
        texts = {name: jnp.asarray(value) for name, value in inputs.items() if name != "pixel_values"}
        names = run_blocks(
            [third], home, lit_jax=lit_jax, images=images, texts=texts, processor=names["processor"]
        )
    *labels, shares, found = said.getvalue().splitlines()
    assert len(labels) == 3 and set(labels) <= set(eval(shares)) and found in ("1F431", "1F683", "1F40C")
    assert names["image_embeds"].shape == (3, 512) and names["text_embeds"].shape == (6, 512)


def test_the_python_of_transformers4_runs_as_written(home, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    old = tmp_path / "old-flax-model"
    new = lit_jax.load(home / "quickstart_run" / "export")
    lit_jax.save(old, *new)
    from safetensors.numpy import load_file

    write_msgpack(old / "flax_model.msgpack", as_flax(load_file(old / "model.safetensors")))
    (old / "model.safetensors").unlink()
    images = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    pixels = jnp.zeros((2, 32, 32, 3))
    names = run_blocks(
        blocks("docs/transformers4.md", "python"),
        home,
        images=images,
        pixels=pixels,
        jax=jax,
        lit_jax=lit_jax,
    )
    assert names["probabilities"].shape == (2, 2) and names["image_embeds"].shape == (2, 64)
    chex.assert_trees_all_equal(names["params"], new[1])


def test_the_table_of_transformers4_names_methods_and_arguments_that_exist(home):
    cells = re.findall(r"^\| (`.+?`(?:, `.+?`)*) \|", (ROOT / "docs/transformers4.md").read_text(), re.M)
    calls = [call for cell in cells for call in re.findall(r"`([^`]+)`", cell)]
    assert len(calls) >= 12
    model = FlaxVisionTextDualEncoderModel.from_pretrained(home / "quickstart_run" / "export")
    for call in calls:
        name, _, arguments = call.partition("(")
        name = name.removeprefix("model.")
        if not arguments:
            assert getattr(model, name) is not None
            continue
        own = {"model": model.__call__, "FlaxVisionTextDualEncoderModel": FlaxVisionTextDualEncoderModel}
        known = inspect.signature(own.get(name) or getattr(model, name)).parameters
        keywords = re.findall(r"(\w+)=", arguments)
        free = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
        assert set(keywords) <= set(known) or free, call
    for gone in ("init_weights", "params_shape_tree", "required_params"):
        assert not hasattr(model, gone)
    with pytest.raises(ConfigError, match=r"_do_init=False is lit_jax\.load\(FOLDER\) here"):
        FlaxVisionTextDualEncoderModel.from_pretrained("old-flax-model", _do_init=False)
    with pytest.raises(ConfigError, match="begin with vision_ or text_"):
        FlaxVisionTextDualEncoderModel.from_vision_text_pretrained("v", "t", hidden_size=3)
    kernel = model.params["text"]["layers"]["mlp"]["up"]["kernel"]
    assert kernel.shape == (2, 64, 128) and set(model.params) == {
        *("vision", "text", "visual_projection", "text_projection", "logit_scale")
    }
