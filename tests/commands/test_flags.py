"""The options of the commands that take a config: what they set, what they refuse, and what they ignore."""

import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lit_jax
from lit_jax import __main__ as shell
from lit_jax.commands import config_file, grid, plan, quickstart, train
from lit_jax.config import default_config, read_config
from lit_jax.hf import join
from lit_jax.hf.towers import read_tower
from lit_jax.models.dual_encoder import DualEncoder
from lit_jax.tools.plan import parameters
from lit_jax.utils.errors import ConfigError
from lit_jax.utils.log_once import log_once
from tests import tiny

CONFIG = Path(lit_jax.__file__).parents[1] / "configs" / "lit_b16_bert.py"
SMOKE = f"{CONFIG}:smoke"
LINE = ("--config", SMOKE, "--workdir", "w")


def set_by(*args):
    """The config that `train` receives."""
    return train.FLAGS.parse([*LINE, *args])[0]


def refused(*args, flags=train.FLAGS, line=LINE):
    with pytest.raises(ConfigError) as raised:
        flags.parse([*line, *args])
    return str(raised.value)


@pytest.fixture
def said(caplog):
    """The log from here on."""
    log_once.cache_clear()
    caplog.set_level(logging.INFO, "lit_jax")
    return caplog


def write(folder, body, head=""):
    """Writes a config file whose get_config has this body."""
    path = folder / "config.py"
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    path.write_text(f"from ml_collections import ConfigDict\n{head}\n\ndef get_config():\n{lines}")
    return path


def of_file(path, *args):
    return train.FLAGS.parse(["--config", str(path), "--workdir", "w", *args])[0]


SMALL = """c = ConfigDict()
c.steps = 10
c.batch_size = 8
c.model = ConfigDict({"vision": "v", "text": "t"})
c.data = ConfigDict({"train": "folder:x"})
"""


@pytest.mark.parametrize(
    ("args", "values"),
    [
        ([], {"workdir": "w", "no-fallback": False, "heartbeat": None}),
        (["--workdir=x"], {"workdir": "x"}),
        (["-workdir", "x", "--no-fallback"], {"workdir": "x", "no-fallback": True}),
        (["--no-fallback", "--nono-fallback"], {"no-fallback": False}),
        (["--no-fallback=true", "--process-id", "0"], {"no-fallback": True, "process-id": "0"}),
        (["--no-fallback=false", "--coordinator=a:b=c"], {"no-fallback": False, "coordinator": "a:b=c"}),
    ],
)
def test_options_are_read_in_the_usual_forms(args, values):
    found = train.FLAGS.parse([*LINE, *args])[1]
    assert found == found | values and "config" not in found


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--wordkir", "w"], "train: no option --wordkir; did you mean --workdir?"),
        (["--text_length", "3"], "train: no option --text_length; did you mean --config.data.text_length?"),
        (["--xyz"], "train: no option --xyz; see lit-jax train --help"),
        (["--workdir"], "train: --workdir wants a value"),
        (["--workdir", "--no-fallback"], "train: --workdir wants a value"),
        (["--config.steps"], "train: --config.steps wants a value"),
        (["--no-fallback=maybe"], "train: --no-fallback=maybe is a switch; wanted it alone, or with =true or =false"),
        (["here", "there"], "train: unexpected arguments here there; options begin with --"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_named(args, message):
    assert refused(*args) == message


def test_a_missing_option_is_named():
    assert refused(line=("--config", SMOKE)) == "train: --workdir is missing; see lit-jax train --help"


@pytest.mark.parametrize(
    ("args", "field", "value"),
    [
        ("--config.steps 20", "steps", 20),
        ("--config.steps=20", "steps", 20),
        ("-config.steps 20", "steps", 20),
        ("--config.steps 20 --config.steps 30", "steps", 30),
        ("--config.cache", "cache", True),
        ("--config.cache true", "cache", True),
        ("--config.cache=1", "cache", True),
        ("--config.cache --config.cache False", "cache", False),
        ("--config.cache --noconfig.cache", "cache", False),
        ("--config.optim.clip_norm None", "optim.clip_norm", None),
        ("--config.optim.clip_norm=None", "optim.clip_norm", None),
        ("--config.optim.clip_norm=null", "optim.clip_norm", None),
        ("--config.optim.clip_norm 'NONE'", "optim.clip_norm", None),
        ("--config.optim.clip_norm=", "optim.clip_norm", None),
        ("--noconfig.optim.clip_norm", "optim.clip_norm", None),
        ("--config.model.image_size (224,448)", "model.image_size", (224, 448)),
        ("--config.model.image_size 224", "model.image_size", 224),
        ("--config.data.max_broken .2", "data.max_broken", 0.2),
        ("--config.optim.end_lr 0", "optim.end_lr", 0.0),
        ("--config.model.logit_bias_init -5", "model.logit_bias_init", -5.0),
        ("--config.data.test=", "data.test", ""),
        ("--config.data.train folder:a=b", "data.train", "folder:a=b"),
        ("--config.data.train (('folder:x',1),)", "data.train", (("folder:x", 1.0),)),
        ("--config.model.lock_rules (('vision/.*','lock'),)", "model.lock_rules", (("vision/.*", "lock"),)),
        ("--config.model.text_config.vocab_size 512", "model.text_config.vocab_size", 512),
        ("--config.model.text_config.hidden_act gelu", "model.text_config.hidden_act", "gelu"),
        ("--config.model.text_config.a.b [1,2]", "model.text_config.a", {"b": [1, 2]}),
        ("--config.model.vision_config {'model_type':'vit'}", "model.vision_config", {"model_type": "vit"}),
    ],
)
def test_a_field_is_set(args, field, value):
    tree = set_by(*args.split()).to_dict()
    for name in field.split("."):
        tree = tree[name]
    assert tree == value and type(tree) is type(value)


def test_single_fields_of_a_tower_override_those_of_the_file():
    config = set_by("--config.model.text_config.vocab_size", "512")
    assert config.model.text_config.model_type == "bert" and config.model.text_config.hidden_size == 64


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--config.optim.lr 1", "config.optim.lr does not exist; did you mean optim.peak_lr?"),
        ("--config.lr 1", "config.lr does not exist; did you mean optim.peak_lr?"),
        ("--config.foo.bar 1", "config.foo.bar does not exist; did you mean "),
        ("--config.steps.x 1", "config.steps.x does not exist; did you mean steps?"),
        ("--config.model.projection 1", "config.model.projection does not exist; did you mean model.projection_dim?"),
        ("--config.mesh.foozle", "config.mesh.foozle does not exist; did you mean mesh."),
        ("--config.model vit", "config.model is 'vit'; wanted a group of fields"),
        ("--config.steps many", "config.steps is 'many'; wanted a whole number"),
        ("--config.steps 1e3", "config.steps is '1e3'; wanted a whole number"),
        ("--config.optim.peak_lr None", "config.optim.peak_lr is 'None'; wanted a number"),
        ("--config.optim.clip_norm x", "config.optim.clip_norm is 'x'; wanted a number or None"),
        ("--config.cache maybe", "config.cache is 'maybe'; wanted true or false"),
        ("--noconfig.steps", "config.steps is 'false'; wanted a whole number"),
        (
            "--config.model.lock_rules ('a','lock')",
            "config.model.lock_rules is ('a', 'lock'); wanted pairs of a text and a text, such as (('text', 'text'),)",
        ),
        ("--config.model.vision_config vit", "config.model.vision_config is 'vit'; wanted a group of fields"),
        ("--config.loss x --config.seed -1", "2 mistakes: config.seed is -1, wanted 0 or more, and below 2**32; "),
    ],
)  # fmt: skip
def test_the_error_for_a_wrong_value_says_what_was_found_and_wanted(args, message):
    args = args.split()
    if "--config.mesh.foozle" in args:
        args.append("3")
    assert refused(*args).startswith(message)


def test_nothing_reads_the_arguments_of_the_process(monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["x", "--config.steps", "7", "--workdir", "elsewhere", "--config", "nope.py"]
    )
    for seed in (3, 4):  # Twice in one process.
        config, values = train.FLAGS.parse([*LINE, "--config.seed", str(seed)])
        assert (config.seed, config.steps, values["workdir"]) == (seed, 100, "w")
    assert set_by().seed == 0


@pytest.mark.parametrize("module", [quickstart, grid, plan], ids=lambda module: module.__name__)
def test_a_command_that_fills_in_towers_and_data_lets_them_be_empty(module):
    line = ("--workdir", "w") if module is not plan else ("--config", str(CONFIG))
    config, _ = module.FLAGS.parse(line)
    assert config.data.train == ""
    message = refused("--config.keep_best", "-1", flags=module.FLAGS, line=line)
    assert message == "config.keep_best is -1; wanted 0 or more"


def test_a_file_with_some_fields_gets_the_defaults_of_the_others(tmp_path):
    config = of_file(
        write(tmp_path, f"{SMALL}return c"), "--config.optim.b2", "0.5", "--config.optim.clip_norm", "None"
    )
    assert config.optim.to_dict() == default_config().optim.to_dict() | {"b2": 0.5, "clip_norm": None}


def test_a_file_may_return_a_dict(tmp_path):
    path = write(tmp_path, f"{SMALL}return c.to_dict()")
    assert of_file(path, "--config.steps", "11") == of_file(write(tmp_path, f"{SMALL}c.steps = 11\nreturn c"))


def test_what_a_file_computes_from_a_field_follows_it(tmp_path):
    path = write(
        tmp_path, f"{SMALL}c.optim = ConfigDict()\nc.optim.warmup_steps = c.get_ref('steps') // 2\nreturn c"
    )
    assert of_file(path).optim.warmup_steps == 5
    assert of_file(path, "--config.steps", "40").optim.warmup_steps == 20
    assert of_file(path, "--config.steps", "40", "--config.optim.warmup_steps", "3").optim.warmup_steps == 3
    with pytest.raises(ConfigError, match=r"config\.steps is 'x'; wanted a whole number"):
        of_file(path, "--config.steps", "x")


def test_the_former_name_is_read_from_a_file_and_from_the_shell(tmp_path, said):
    path = write(tmp_path, f'{SMALL}c.model.lock = "UU"\nreturn c')
    assert of_file(path).model.lock_towers == "UU"
    assert of_file(path, "--config.model.lock", "LL").model.lock_towers == "LL"
    assert of_file(path, "--config.model.lock_towers", "LL").model.lock_towers == "LL"
    assert read_config(of_file(path)).model.lock_towers == "UU"
    assert said.messages == [
        "config.model.lock is now called config.model.lock_towers; the former name is still read"
    ]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise ValueError('no such size')", "train: the config file: no such size"),
        ("c = nothing", "train: the config file, line 5: NameError: name 'nothing' is not defined"),
        (
            "import nothing_at_all",
            "train: the config file, line 5: ModuleNotFoundError: No module named 'nothing_at",
        ),
        ("return 3", "train: the config file: get_config() returned 3; wanted a ConfigDict"),
        ("return dict", "train: the config file: get_config() returned <class 'dict'>; wanted a ConfigDict"),
        ("raise SystemExit(0)", "train: the config file, line 5: SystemExit: 0"),
        (
            "from lit_jax.config import default_config as d; d().optim.lr_multipliers = {'text/.*': 0.1}",
            "train: the config file, line 5: ValueError: ConfigDict does not accept dots in field names",
        ),
        (
            "from lit_jax.config import default_config\nc = default_config()\nc.optim.lr = 3",
            "train: the config file, line 7: config has no field lr; did you mean optim.peak_lr?",
        ),
        (f"{SMALL}c.stepz = 3\nreturn c", "config.stepz does not exist; did you mean steps?"),
    ],
)
def test_a_mistake_in_the_file_is_named(body, message, tmp_path):
    assert refused(line=("--config", str(write(tmp_path, body)), "--workdir", "w")).startswith(message)


def test_a_shipped_config_is_found_from_anywhere_unless_a_file_of_its_name_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = config_file.load("configs/lit_b16_bert.py:smoke")
    assert (
        shipped.to_dict()
        == config_file.load(f"{config_file.shipped_config('lit_b16_bert.py')}:smoke").to_dict()
    )
    (tmp_path / "configs").mkdir()
    write(tmp_path / "configs", f"{SMALL}return c").rename(tmp_path / "configs" / "lit_b16_bert.py")
    assert config_file.load("configs/lit_b16_bert.py").to_dict() != shipped.to_dict()


def test_a_file_that_is_not_a_config_is_refused(tmp_path):
    line = ("--workdir", "w", "--config", "nope.py")
    assert refused(line=line) == "train: config file nope.py does not exist; give the path of a .py file"
    said = refused(line=(*line[:3], "siglit_b16"))
    assert said.endswith(
        "give the path of a .py file, or one of lit_jax's own, such as configs/siglit_b16.py"
    )
    path = tmp_path / "config.py"
    path.write_text("x = (")
    assert "the config file: SyntaxError: '(' was never closed" in refused(line=(*line[:3], str(path)))
    path.write_text("x = 3")
    assert "it has no function get_config" in refused(line=(*line[:3], str(path)))


@pytest.mark.parametrize("name", ["recipe.yaml", "config.json", "colab.ipynb"])
def test_the_error_for_a_config_in_another_language_says_what_a_config_is(name, tmp_path):
    (tmp_path / name).write_text("steps: 3")  # This is also valid Python.
    said = refused(line=("--workdir", "w", "--config", str(tmp_path / name)))
    assert f"{name} is not a Python file; wanted a .py file with a function get_config" in said


@pytest.mark.parametrize("command", ["train", "plan", "quickstart", "grid"])
def test_a_bad_config_is_refused_before_anything_heavy_is_imported(command, tmp_path):
    """Not even JAX is imported: here it would end the process."""
    (tmp_path / "jax.py").write_text("raise SystemExit('jax was imported')")
    args = [command, "--config", f"{CONFIG.with_name('quickstart.py')}:smoke", "--config.loss", "triplet"]
    args += [] if command == "plan" else ["--workdir", str(tmp_path / "run")]
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", f"import lit_jax.__main__ as shell; shell.main({args!r})"],
        capture_output=True,
        text=True,
        cwd=CONFIG.parents[1],
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert done.stderr == "lit-jax: config.loss is 'triplet'; wanted one of softmax, sigmoid\n"
    assert done.returncode == 2 and not (tmp_path / "run").exists() and time.monotonic() - start < 30


def test_the_status_of_a_bad_config_is_that_of_a_usage_error(capsys):
    with pytest.raises(SystemExit) as ended:
        shell.main(["train", *LINE, "--config.steps", "0"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "lit-jax: config.steps is 0; wanted at least 1\n"


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """Folders of an image tower and of two text towers, none of which has the sizes of the shipped configs."""
    folder = tmp_path_factory.mktemp("towers")
    tiny.write_towers(folder / "bert")
    tiny.write_towers(folder / "roberta", text=tiny.XLM_ROBERTA)
    return {"vision": folder / "bert/v", "bert": folder / "bert/t", "xlm-roberta": folder / "roberta/t"}


def swapped(towers, text, *args, flags=train.FLAGS):
    """The shipped config with towers that the command line names."""
    line = ["--config", str(CONFIG), "--workdir", "w", "--config.data.train", "shapes:512/train"]
    line = line if flags is train.FLAGS else line[:2]
    folders = ("--config.model.vision", str(towers["vision"]), "--config.model.text", str(towers[text]))
    return flags.parse([*line, *folders, *args])[0]


def test_a_tower_of_another_type_is_swapped_in_by_name(towers, said):
    model = read_config(swapped(towers, "xlm-roberta")).model
    config = join.join_towers(model).module.config
    assert (config.vision_type, config.text_type) == ("vit", "xlm-roberta")
    assert config.text.hidden_size == 24 and config.vision.patch_size == 8 and config.vision.image_size == 32
    # The tower's own value, since that of the file is for a BERT.
    assert config.text.hidden_dropout_prob == 0.1
    aside = [line for line in said.messages if "not used" in line]
    assert aside == [
        "model.vision is named on the command line, so these fields of config.model.vision_config in the config file "
        "are not used: image_size, model_type, patch_size",
        f"{towers['xlm-roberta']} is of type 'xlm-roberta': text_config is for type 'bert' and is not used",
    ]


def test_a_tower_of_the_same_type_keeps_the_dropout_of_the_file(towers, said):
    model = read_config(swapped(towers, "bert")).model
    assert model.text_config == {
        "model_type": "bert",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    config = join.join_towers(model).module.config
    assert config.text.hidden_size == 24 and config.text.hidden_dropout_prob == 0.0
    assert not any("text" in line for line in said.messages)


def test_only_the_shell_sets_fields_of_a_tower_that_it_names(towers):
    for text in ("bert", "xlm-roberta"):
        model = read_config(
            swapped(towers, text, "--config.model.text_config.hidden_dropout_prob", "0.3")
        ).model
        assert model.text_config == {"hidden_dropout_prob": 0.3}
        assert (
            read_tower("text", model.text, overrides=model.text_config)[0].config.hidden_dropout_prob == 0.3
        )


def test_a_tower_that_is_named_as_in_the_file_keeps_its_numbers():
    line = ("--config", str(CONFIG), "--workdir", "w", "--config.data.train", "shapes:512/train")
    config, _ = train.FLAGS.parse([*line, "--config.model.vision", "google/vit-base-patch16-224-in21k"])
    assert config.model.vision_config.image_size == 224


def test_a_small_tower_of_a_smoke_run_gives_way_to_a_named_one(towers):
    config = set_by("--config.model.vision", str(towers["vision"]), "--config.model.lock_towers", "Lu")
    model = read_config(config).model
    assert model.vision_config == {} and model.text_config["hidden_size"] == 64
    assert join.join_towers(model).module.config.vision.hidden_size == 32
    option = quickstart.FLAGS.parse(["--config", SMOKE, "--workdir", "w", "--vision", str(towers["vision"])])[
        0
    ]
    assert option.model.vision_config.to_dict() == {} and option.model.text_config.hidden_size == 64


def test_a_plan_is_for_the_named_tower(towers):
    config = swapped(towers, "xlm-roberta", flags=plan.FLAGS)
    assert config.model.text_config.to_dict() == config.model.vision_config.to_dict() == {}
    module = DualEncoder(parameters.config_of(read_config(config, empty=plan.FLAGS.empty)))
    assert module.config.text_type == "xlm-roberta" and module.config.text.hidden_size == 24


def test_a_field_inside_a_value_that_is_not_a_group_is_left_to_the_reader():
    tree = config_file.merge({"optim": 3}, [config_file.Override("optim.b2", "0.5")], {})
    assert tree == {"optim": 3}
