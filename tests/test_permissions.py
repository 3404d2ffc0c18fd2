"""What this user may not read or write is told in one sentence, before any work; what is written, others may read.

All of it happens in two processes, to which the permissions apply even if the tests run as root.
"""

import json
import os
import shutil
import stat
import sys

import pytest

import lit_jax
from lit_jax.train.loop import train
from tests import ordinary, tiny

if os.name != "posix" or (sys.platform != "linux" and os.geteuid() == 0):
    pytest.skip("root gives up its capabilities only on Linux", allow_module_level=True)

CLASSIFY = "lit-jax classify pairs/000.png --labels a,b --model"
CASES = [  # What is closed (file: mode), a line for `ordinary.run`, its status, what it says.
    (
        {"model": 0o444},
        f"{CLASSIFY} model",
        4,
        "model folder model cannot be read: Permission denied; see to",
    ),
    ({"in": 0}, f"{CLASSIFY} in/model", 4, "model folder in/model cannot be read: Permission denied"),
    ({"model/config.json": 0}, f"{CLASSIFY} model", 4, "model/config.json cannot be read: Permission denied"),
    ({"model/model.safetensors": 0}, f"{CLASSIFY} model", 4, "model.safetensors cannot be read: Permission"),
    ({"model/tokenizer.json": 0}, f"{CLASSIFY} model", 4, "cannot be read: model/tokenizer.json: Permission"),
    ({"model/config.json": 0}, "import lit_jax; lit_jax.load('model')", -4, "config.json cannot be read"),
    ({"in": 0}, f"{CLASSIFY} model --labels in/names.txt", 3, "in/names.txt cannot be read: Permission"),
    ({"in": 0}, f"{CLASSIFY} model --prompts in/names.txt", 2, "in/names.txt cannot be read: Permission"),
    ({"in": 0}, "lit-jax compare in/a.json in/a.json", 2, "FIRST: in/a.json cannot be read: Permission"),
    ({"pairs": 0o444}, "lit-jax inspect pairs", 3, "pairs cannot be read: Permission denied; see to its"),
    ({"in": 0}, "lit-jax inspect in/pairs", 3, "in/pairs cannot be read: Permission denied; see to its"),
    ({"pairs/metadata.jsonl": 0}, "lit-jax inspect pairs", 3, "metadata.jsonl cannot be read: Permission"),
    (
        {"in": 0o444},
        "lit-jax inspect parquet:in/*.parquet",
        3,
        "cannot be read: Permission denied; see to its",
    ),
    ({"set": 0o444}, "lit-jax inspect tfds:set/train", 3, "cannot be read: Permission denied; see to its"),
    (
        {"index": 0o444},
        "lit-jax search index --query red --model model",
        3,
        "index cannot be read: Permission",
    ),
    (
        {"index/manifest.json": 0},
        "lit-jax search index --query red --model model",
        3,
        "manifest.json cannot be read: Permission denied; see to its permissions",
    ),
    (
        {"run/checkpoints/step_2": 0},
        "lit-jax export --workdir run --output new",
        4,
        "step_2 cannot be used (it",
    ),
    (
        {"run/checkpoints/locked": 0},
        "lit-jax export --workdir run --output new",
        4,
        "locked cannot be used (it",
    ),
    (
        {"run/metrics.jsonl": 0},
        "lit-jax report --workdir run",
        4,
        "run/metrics.jsonl cannot be read: Permission",
    ),
    (
        {"run/config.json": 0},
        "lit-jax train --config c.py --workdir run",
        4,
        "run/config.json cannot be read",
    ),
    (
        {"run/ranks": 0o555},
        "lit-jax train --config c.py --workdir run",
        2,
        "cannot be written (run/ranks: Perm",
    ),
    ({"c.py": 0}, "lit-jax train --config c.py --workdir new", 2, "c.py cannot be read: Permission denied"),
    (
        {"in": 0o555},
        "lit-jax export --workdir run --output in/new",
        2,
        "in/new cannot be written: Permission",
    ),
    (
        {"in": 0o555},
        "lit-jax convert model in/new",
        2,
        "--output in/new cannot be written: Permission denied",
    ),
    ({"in": 0o555}, "lit-jax embed pairs --model model --output in/new", 2, "in/new cannot be written: Perm"),
    (
        {"in": 0o555},
        "lit-jax report --workdir run --output in/r.html",
        2,
        "in/r.html cannot be written: Perm",
    ),
    ({"in": 0}, "lit-jax inspect pairs --sheet in/x.png", 2, "in/x.png cannot be written; give another file"),
    (
        {"page.html": 0o444},
        "lit-jax report --workdir run --output page.html",
        2,
        "page.html cannot be written",
    ),
    (
        {"run": 0o555},
        "lit-jax report --workdir run",
        2,
        "run/report.html cannot be written: Permission denied",
    ),
    (
        {"begun": 0o555},
        "lit-jax embed pairs --model model --output begun",
        2,
        "begun cannot be written: Perm",
    ),
    (
        {"in": 0o555},
        "import lit_jax; lit_jax.save('in/new', *lit_jax.load('model'))",
        -2,
        "the folder in/new cannot be written: Permission denied; choose another",
    ),
    (
        {"index": 0o555},
        "import lit_jax; lit_jax.save('index', *lit_jax.load('model'))",
        -2,
        "the folder index cannot be written: Permission denied; choose another",
    ),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, pairs, an index, a run and its config, and folders that are closed in some cases."""
    folder = tmp_path_factory.mktemp("permissions")
    tiny.write_models_and_pictures(folder)
    lit_jax.embed(f"folder:{folder / 'pairs'}", folder / "index", folder / "model")
    (folder / "conf").mkdir()
    config = tiny.config(folder / "conf", steps=2, eval_every=2, optim__warmup_steps=1)
    (folder / "c.py").write_text(f"def get_config():\n    return {config!r}\n")
    train(config, folder / "run")
    (folder / "in").mkdir()
    (folder / "begun").mkdir()
    shutil.copy(folder / "index" / "plan.json", folder / "begun")
    (folder / "set").mkdir()
    for name in ("model", "pairs"):
        shutil.copytree(folder / name, folder / "in" / name)
    (folder / "in" / "names.txt").write_text("a\nb\n")
    (folder / "page.html").write_text("")
    return folder


@pytest.fixture(scope="module")
def said(place):
    """The cases' numbers -> [status, output]."""
    close = "import os; os.chmod({!r}, {})"
    lines = []
    for closed, line, _, _ in CASES:
        lines += [close.format(path, mode) for path, mode in closed.items()] + [line]
        before = {path: stat.S_IMODE((place / path).stat().st_mode) for path in closed}
        lines += [close.format(path, mode) for path, mode in before.items()]
    before = sorted(map(str, place.rglob("*")))
    answers = iter(ordinary.run(lines, place))
    found = []
    for closed, *_ in CASES:
        answer = [next(answers) for _ in range(2 * len(closed) + 1)]
        found.append(answer[len(closed)])
    assert sorted(map(str, place.rglob("*"))) == before
    return found


@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{case[1]} {[*case[0]]}" for case in CASES])
def test_a_user_without_permission_is_told_in_one_sentence_and_nothing_is_left(said, number):
    status, text = said[number]
    lines = [line for line in text.splitlines() if not line.startswith(("INFO", "records: "))]
    assert status == CASES[number][2] and len(lines) == 1, text
    assert lines[0].startswith("lit-jax: ") and CASES[number][3] in lines[0], text


def test_what_is_written_has_the_permissions_that_umask_and_the_folder_say(place, tmp_path):
    model = json.dumps(str(place / "model"))
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o2775)
    (tmp_path / "given" / "mine").mkdir(parents=True)
    save = f"import lit_jax; lit_jax.save({{!r}}, *lit_jax.load({model}))"
    lines = [save.format(name) for name in ("open", "shared/new", "given/mine")]
    lines.insert(2, "import os; os.chmod('given', 0o555)")
    assert [status for status, _ in ordinary.run(lines, tmp_path, umask=0o002)] == [0] * 4
    assert [status for status, _ in ordinary.run([save.format("closed")], tmp_path, umask=0o077)] == [0]
    modes = {
        name: [
            stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / name, tmp_path / name / "config.json")
        ]
        for name in ("open", "shared/new", "given/mine", "closed")
    }
    assert modes["open"] == [0o775, 0o664] and modes["closed"] == [0o700, 0o600]
    assert modes["shared/new"] == [0o2775, 0o664] and modes["given/mine"][1] == 0o664
    for name, (_, mode) in modes.items():
        weights = tmp_path / name / "model.safetensors"
        assert stat.S_IMODE(weights.stat().st_mode) == mode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["closed", "given", "open", "shared"]
    (tmp_path / "given").chmod(0o755)
