"""What the tab key completes: commands, options, names, and the places where the shell offers its paths."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lit_jax
from lit_jax import __main__ as shell
from tests.command_options import options

CONFIG = Path(lit_jax.__file__).parents[1] / "configs" / "lit_b16_bert.py"


@pytest.fixture
def offered(monkeypatch, capsys):
    """The (kind, word) pairs offered for the last word of a line."""

    def ask(line):
        words = ["lit-jax", *line.split(" ")]
        monkeypatch.setenv("_LIT_JAX_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", " ".join(words))
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        with pytest.raises(SystemExit) as ended:
            shell.main([])
        assert ended.value.code == 0
        return [tuple(item.split(",", 1)) for item in capsys.readouterr().out.split()]

    return ask


def plain(*words):
    return [("plain", word) for word in words]


FILE, FOLDER = [("file", "")], [("dir", "")]  # The shell offers its own paths.


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("", plain(*shell.COMMANDS)),
        ("se", plain("search", "serve")),
        ("--v", plain("--version")),
        ("classify --mo", plain("--model")),
        ("classify --model m ", FILE),
        ("train --work", plain("--workdir")),
        ("train --workdir ", FILE),
        ("train --config ", FILE),
        ("train --no-fallback --config.steps 3 --config.seed=1 --workdir ", FILE),
        (f"train --config {CONFIG}:smoke --config.mesh.d", plain("--config.mesh.data")),
        ("quickstart --config.optim.p", plain("--config.optim.peak_lr")),
        ("train --config missing.py --config.optim.p", plain("--config.optim.peak_lr")),
        ("train --config.model.lock_", plain("--config.model.lock_towers", "--config.model.lock_rules")),
        ("train --config.keep", plain("--config.keep", "--config.keep_best")),
        ("plan --topology ", []),
        ("plan --fi", plain("--find-batch")),
        ("evaluate --task cifar100", plain("cifar100")),
        ("evaluate --preset ", plain("lit", "open_clip", "clip_benchmark")),
        ("evaluate --data ", FILE),
        ("embed --format p", plain("parquet")),
        ("embed ", FILE),
        ("inspect ", FILE),
        ("compare ", FILE),
        ("blend a b --alp", plain("--alpha")),
        ("nothing --x", []),
    ],
)
def test_what_is_typed_is_completed(offered, line, wanted):
    assert offered(line) == wanted


@pytest.mark.parametrize("command", shell.COMMANDS)
def test_every_option_of_every_command_is_offered(offered, command):
    known = {name for name in options(command) if name.startswith("--")}
    # Also hidden in the help.
    hidden = {
        "evaluate": {"--seeds", "--ledger", "--dim"},
        "export": {
            *("--model", "--allow-pickle", "--license-name", "--private"),
            *("--onnx-int8", "--stablehlo", "--raw", "--message"),
        },
    }
    assert {word for _, word in offered(f"{command} --")} == known - hidden.get(command, set()) | {"--help"}


@pytest.mark.parametrize("name", ["model", "workdir", "output", "config", "index", "picture", "json", "data"])
def test_every_option_that_takes_a_path_is_completed_as_a_path(offered, name):
    having = [command for command in shell.COMMANDS if f"--{name}" in options(command)]
    having = [each for each in having if (each, name) not in {("doctor", "json"), ("encoders", "json")}]
    assert having and all(offered(f"{command} --{name} ") in (FILE, FOLDER) for command in having)


def test_bash_reads_the_script_and_completes_without_jax(tmp_path):
    """As for a user: bash reads the script, which calls lit-jax; importing JAX would end it."""
    (tmp_path / "jax.py").write_text("raise SystemExit('jax was imported')")
    program = tmp_path / "lit-jax"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m lit_jax "$@"\n')
    program.chmod(0o755)
    lines = ("classify --la", "train --config.ste", "evaluate --task imagenet_v", "encoders --js")
    asked = "".join(
        f"COMP_WORDS=(lit-jax {line}); COMP_CWORD={len(line.split())}; COMPREPLY=()\n"
        '_lit_jax_completion lit-jax; echo "${COMPREPLY[*]}"\n'
        for line in lines
    )
    script = f"source <(_LIT_JAX_COMPLETE=bash_source lit-jax); complete -p lit-jax\n{asked}"
    root = Path(lit_jax.__file__).parents[1]
    paths = os.pathsep.join([str(tmp_path), str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    settings = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": paths}
    done = subprocess.run(
        ["bash", "-c", script], env=os.environ | settings, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.splitlines() == [
        "complete -o nosort -F _lit_jax_completion lit-jax",
        "--labels",
        "--config.steps",
        "imagenet_v2",
        "--json",
    ], done.stderr
