"""Natural mistakes at the command line: each ends in one true sentence with its status, before any long work."""

import json
import os
import re

import pytest

import lit_jax
from lit_jax.__main__ import main
from lit_jax.train.loop import train
from tests import tiny

CLASSIFY = "classify pairs/000.png --model model --labels"
TRAIN = "train --config config.py --workdir new --config"
PREPARE = "prepare pairs --output new3 --name x --split train --processes 1"
MISTAKES = [  # A command, run in the folder of `place`; its exit status; what it says.
    (
        f"{CLASSIFY} nofile.txt",
        3,
        "file of labels nofile.txt does not exist; give an existing one, or labels as in",
    ),
    (f"{CLASSIFY} lists/names", 3, "file of labels lists/names does not exist"),
    (f"{CLASSIFY} cat", 2, "a single label, 'cat', gets 100 % of every picture; give at least two"),
    (f"{CLASSIFY} one.txt", 2, "a single label, 'red square', gets 100 %"),
    (f"{CLASSIFY} empty.txt", 2, "there are no labels to choose from"),
    (f"{CLASSIFY} cat,", 3, "label 1 is blank; leave it out"),
    (f"{CLASSIFY} a,b --prompts photos", 2, "template set 'photos' is neither a file nor one of name, plain"),
    (f"{CLASSIFY} a,b --json nowhere/x.json", 2, "--json: there is no directory nowhere; make it first"),
    (f"{CLASSIFY} a,b --json pairs", 2, "--json: pairs is a directory; give a file"),
    (f"{CLASSIFY} a,b --text-length 9999", 2, "has positions for 40; give at most 40"),
    ("classify none.png --model absent --labels a,b", 3, "'none.png' cannot be read: No such file"),
    (
        "classify pairs --model absent --labels a,b",
        3,
        r"'pairs' cannot be read: Is a directory; give its pictures: pairs/\*$",
    ),
    (
        "classify https://x.org/a.png --model absent --labels a,b",
        3,
        "cannot be read: No such .*; download it, and give the file",
    ),
    ("inspect folder:pairs/metadata.jsonl", 3, "no such directory; it is a file, give folder:pairs$"),
    ("inspect tfds:imagenet", 3, "'imagenet' names no split; want tfds:NAME"),
    (
        "classify pairs/000.png --model run --labels a,b",
        4,
        "run is a run .* `lit-jax export --workdir run --output DIR`",
    ),
    ("classify pairs/000.png --model run/checkpoints --labels a,b", 4, "is a run and not a model"),
    ("classify pairs/000.png --model run/model --labels a,b", 4, "is a run and not a model"),
    ("classify pairs/000.png --model conf/v --labels a,b", 4, "'vit' is a single tower where two are wanted"),
    (
        "classify pairs/000.png --model model/config.json --labels a,b",
        4,
        "is a file; give the folder that it is in, model",
    ),
    (
        "classify pairs/000.png --model ./absent --labels a,b",
        4,
        r"\./absent does not exist; give an existing folder",
    ),
    (
        "embed absent --model absent --output new",
        3,
        "no source 'absent': it is not a directory; want one, or tfds:",
    ),
    ("embed pairs --model run --output new", 4, "run is a run and not a model"),
    (
        "embed pairs --model model --output new --shard-size 99999999999999999999",
        2,
        "shard_size is 9+; want a number of pictures, 1 or more",
    ),
    (
        "score pairs --model model --output new --shard-size 99999999999999999999",
        2,
        "shard_size is 9+; want a number of pictures, 1 or more",
    ),
    (
        "embed pairs --model absent --output gs://bucket/index",
        2,
        "output gs://bucket/index is an address; wanted a folder of this machine",
    ),
    (
        "embed pairs --model absent --output=",
        2,
        "output is '', which names no folder; wanted one, as in runs/first",
    ),
    ("score pairs --model model --output s3://bucket/scores", 2, "output s3://bucket/scores is an address"),
    ("score pairs --model model --output=", 2, "output is '', which names no folder"),
    (
        "prepare pairs --name x --split train --output gs://bucket/set",
        2,
        "output gs://bucket/set is an address",
    ),
    ("prepare pairs --name x --split train --output=", 2, "output is '', which names no folder"),
    (
        "filter absent --ids absent --output pairs --name x",
        2,
        "pairs exists and is not a prepared set; give a new or",
    ),
    (
        "filter pairs --ids pipe --output new3 --name x",
        3,
        "the file of ids pipe cannot be read: it is not a regular file; give one id per line",
    ),
    ("filter absent --ids absent --name x --output=", 2, "output is '', which names no folder"),
    ("convert model gs://bucket/model", 2, "--output gs://bucket/model is an address"),
    (
        "export --workdir run --output new --license mit --space gs://bucket/page",
        2,
        "--space gs:/+bucket/page is an address",
    ),
    (
        "inspect pairs --tokenizer model --text-length 99999999999999999999",
        2,
        "text_length is 9+; want 1 to 1,000,000",
    ),
    ("evaluate --model model --data shapes:99999999999999999999/test", 3, "9+/test is not understood; want"),
    (
        "embed pairs --model model --output model",
        2,
        "model exists and is not an index; give a new or an empty",
    ),
    ("embed pairs --model model", 2, "--output is missing; see lit-jax embed --help"),
    ("embed --source pairs --model model --output new", 2, "no option --source; give PICTURES without it"),
    ("classify --picture cat.png --model model", 2, "no option --picture; give PICTURES without it"),
    ("search --index index --query red", 2, "no option --index; give INDEX without it"),
    ("convert --source model --output new", 2, "no option --source; give IN without it"),
    (
        "classify pairs/*.png --labels a,b --model model",
        3,
        "give the pattern without quotes, so that the shell",
    ),
    ("classify pairs/000.png --labels utf16.txt --model model", 3, "utf16.txt is UTF-16; save it as UTF-8"),
    (
        "classify pairs/000.png --labels a,b --prompts utf16.txt --model model",
        2,
        "utf16.txt: it is UTF-16; save it as UTF-8",
    ),
    (
        "evaluate --model model --data pairs --class-names one.txt",
        2,
        "class_names is 'one.txt', which only zero_shot uses, and what is measured is retrieval; leave it out, or give",
    ),
    (
        "evaluate --model model --data pairs --templates photo",
        2,
        "templates is 'photo', which only zero_shot uses, .* give --tasks zero_shot",
    ),
    (
        "evaluate --model model --data pairs --tasks zero_shot --train pairs",
        2,
        "train is 'pairs', which only few_shot and linear_probe use, .* give --tasks few_shot",
    ),
    (
        "evaluate --model model --data pairs --templates utf16.txt",
        2,
        "utf16.txt: it is UTF-16; save it as UTF-8",
    ),
    ("search index", 2, "give one query: a text that is not blank, or a picture"),
    ("search index red", 2, r"unexpected extra argument \(red\); did you mean --query red\?"),
    (
        "search index --query cat.png",
        2,
        "--query is a text, and cat.png the name of a picture; give it as --picture",
    ),
    ("search index --picture none.png --model absent", 3, "'none.png' cannot be read"),
    (
        "search pairs --query red",
        3,
        "pairs is not an index: it has no manifest.json; `lit-jax embed` writes one",
    ),
    ("search index --query red --model run", 4, "run is a run and not a model"),
    (
        "inspect pairs --caption alt",
        3,
        "no line of metadata.jsonl has the key 'alt'; there are file_name, captions",
    ),
    (
        "inspect plain --caption alt",
        3,
        "none of 2 records has 'alt'; leave out --caption to see which captions",
    ),
    ("inspect pairs --sheet nowhere/x.png", 2, "--sheet: there is no directory nowhere"),
    ("inspect pairs --tokenizer run", 4, "run holds no tokenizer"),
    ("inspect run", 3, "run belongs to a run of `lit-jax train`, run, and is no source; want"),
    ("evaluate --model model", 2, "nothing to evaluate on; give --data SOURCE or --task NAME"),
    (
        "evaluate --model model --data pairs --task imagenet",
        2,
        r"no task 'imagenet'; did you mean imagenet2012\?",
    ),
    (
        "evaluate --model model --data pairs --task zeroshot",
        2,
        r"none 'zeroshot'; did you mean tasks zero_shot\?",
    ),
    ("evaluate --model model --data pairs --tasks zeroshot", 2, r"did you mean zero_shot\?"),
    (
        "evaluate --model model --data pairs --tasks zero_shot",
        3,
        "has no class names; give them with --class-names",
    ),
    ("evaluate --model model --data pairs --json nowhere/x", 2, "--json: there is no directory nowhere"),
    (
        "evaluate --model model --data pairs --templates none.txt",
        2,
        "template set 'none.txt' is neither a file",
    ),
    ("evaluate --model run --data pairs", 4, "run is a run and not a model"),
    ("compare one.txt one.txt", 3, "one.txt is not a result with protocols"),
    ("export --workdir model --output new", 4, "model is a model and not a run"),
    ("export --workdir run/model --output new", 4, r"run/model is the model of the run in .*run: give "),
    ("export --workdir run/checkpoints --output new", 4, "lies in the workdir of a run: give "),
    ("export --workdir absent --output new", 4, "absent does not exist; give the workdir of a run"),
    (
        "export --workdir run --output new --license other",
        2,
        r"or 'other' with its name \(license_name, --license-name\)",
    ),
    ("export --workdir run --output new --license-name Mine", 2, "give --license other with it"),
    ("export --workdir run --output new --step 77", 4, "holds no step 77; there are 2"),
    ("export --workdir run --output model", 2, "model exists and is not an empty folder"),
    (
        "export --model model --output new --verify-data pairs",
        2,
        "--verify-data is what --verify compares on; give --verify, too, or leave it out",
    ),
    (
        "export --output model --space new --license mit",
        2,
        "the licences are for the model of a run; give --workdir",
    ),
    (
        "quickstart --workdir new --data pairs --split family",
        2,
        "the pairs are your own, and pictures and split choose among those of the quickstart; leave these out",
    ),
    (
        "quickstart --workdir new --pictures photos --split family",
        2,
        "split is family, which is of the emoji, and the pictures are photos; leave it out",
    ),
    ("export --model run --output new", 4, "run is a run and not a model"),
    ("report --workdir model", 4, "model is a model and not a run"),
    ("report --workdir empty", 4, r"empty holds no run: it has no config\.json; train there first"),
    ("doctor run", 2, r"unexpected extra argument \(run\); did you mean --workdir run\?"),
    ("demo --model run", 4, "run is a run and not a model"),
    ("demo --model model --index pairs", 3, "pairs is not an index"),
    ("demo --model model --pictures pairs", 2, "--pictures pairs belongs to an index; give it as --index"),
    ("serve --model run", 4, "run is a run and not a model"),
    ("serve --model model --index pairs", 3, "pairs is not an index"),
    ("serve --model model --host 0.0.0.0", 2, "lets every machine that reaches this one use the page"),
    ("serve --model model --port 70000", 2, "--port: 70000 is not in the range"),
    ("serve --model model --text-length 9999", 2, "has positions for 40; give at most 40"),
    ("quickstart --workdir new --pictures fotos", 2, "the pictures are 'fotos'; wanted emoji or photos"),
    ("train --config config.py --workdir model", 4, "model is a model and not a run"),
    (
        "train --config config.py --workdir new --lr 1",
        2,
        r"no option --lr; did you mean --config\.optim\.peak_lr\?",
    ),
    ("train --config config.py --workdir new --steps 5", 2, r"did you mean --config\.steps\?"),
    (
        "train --config config.py --workdir new --heartbeat 0",
        2,
        "train: --heartbeat is '0'; wanted a whole number, 1 or more",
    ),
    ("grid --workdir new --size 1_000", 2, "grid: --size is '1_000'; wanted a whole number, 1 or more"),
    ("plan --config config.py --slices 1e3", 2, "plan: --slices is '1e3'; wanted a whole number, 1 or more"),
    (f"{TRAIN}.optim.peek_lr 3", 2, r"config\.optim\.peek_lr does not exist; did you mean optim\.peak_lr\?"),
    (f"{TRAIN}.batch_size 7", 2, "does not divide over the 8 devices of the mesh"),
    (f"{TRAIN}.data.train floder:x", 3, r"did you mean folder:x\?"),
    (f"{TRAIN}.model.text conf/v", 4, "a model of type 'vit' is an image tower where a text tower is wanted"),
    (
        "align conf/t conf/v pairs --workdir new2",
        4,
        "a model of type 'bert' is a text tower where an image tower is wanted",
    ),
    ("quickstart --workdir model", 4, "model is a model and not a run"),
    ("quickstart --workdir run", 2, "run holds a run that began in another way; name another --workdir"),
    (
        "plan --config config.py",
        2,
        r"neither --topology nor config\.topology names a TPU slice; wanted one of v4",
    ),
    (
        "plan --config config.py --topology v5e:2x4 --json nowhere/x",
        2,
        "--json: there is no directory nowhere",
    ),
    (
        "prepare pairs --output pairs --name x --split train",
        2,
        "pairs exists and is not a prepared set; give a new or an empty directory",
    ),
    (f"{PREPARE} --decoded ./absent", 4, r"\./absent does not exist; give an existing folder or a Hub id"),
    (f"{PREPARE} --decoded conf/t", 4, "conf/t holds no image processor: none of"),
    (f"{PREPARE} --decoded model --resize 24", 2, "resize gives another: prepare without one of them"),
    (
        f"{PREPARE} --image-size 24",
        2,
        "--image-size is 24, and there is no --decoded TOWER whose pixels to store",
    ),
]


pytestmark = pytest.mark.usefixtures("loggers_as_they_were")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, an index, a run and its config, pictures with and without captions, and lists of labels."""
    folder = tmp_path_factory.mktemp("mistakes")
    tiny.write_models_and_pictures(folder)
    lit_jax.embed(f"folder:{folder / 'pairs'}", folder / "index", folder / "model")
    (folder / "conf").mkdir()
    config = tiny.config(folder / "conf", steps=2, eval_every=2, optim__warmup_steps=1)
    (folder / "config.py").write_text(
        "import json\nfrom ml_collections import ConfigDict\n\n\n"
        f"def get_config():\n    return ConfigDict(json.loads({json.dumps(config)!r}))\n"
    )
    train(config, folder / "run")
    for name, text in (("one.txt", "red square\n"), ("empty.txt", "")):
        (folder / name).write_text(text)
    (folder / "utf16.txt").write_text("a red {}\n", encoding="utf-16")
    (folder / "empty").mkdir()
    os.mkfifo(folder / "pipe")  # Nobody writes to it.
    (folder / "plain").mkdir()
    for number in range(2):
        (folder / "plain" / f"{number}.png").write_bytes((folder / "pairs" / f"00{number}.png").read_bytes())
    return folder


def listed(folder):
    """All files and folders, except those left by a failed start of training, which can be repeated."""
    paths = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    return sorted(paths - {"new", "new/lock"})


@pytest.mark.parametrize(("line", "status", "says"), MISTAKES, ids=[line for line, _, _ in MISTAKES])
def test_a_mistake_ends_in_one_sentence_and_writes_nothing(place, monkeypatch, capfd, line, status, says):
    monkeypatch.chdir(place)
    before = listed(place)
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    said = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("records: ")]
    assert ended.value.code == status, said
    assert len(said) == 1, said
    assert said[0].startswith("lit-jax: ")
    assert re.search(says, said[0]), said[0]
    assert listed(place) == before


def test_a_run_is_exported_from_another_folder_with_the_chance_level(place, tmp_path, monkeypatch):
    config = json.loads((place / "run" / "config.json").read_text())
    near = place / "near"
    near.mkdir()
    monkeypatch.chdir(place)
    config["data"] |= {"train": "folder:conf/pairs", "test": "folder:conf/pairs"}
    config["model"] |= {"vision": "conf/v", "text": "conf/t"}
    train(config, near / "run")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["export", "--workdir", str(near / "run"), "--output", "out"])
    assert ended.value.code == 0
    card = (tmp_path / "out" / "README.md").read_text()
    (row,) = [line for line in card.splitlines() if line.startswith("| text to image recall@1 ")]
    assert row.endswith("| 0.042 |")  # One in 24.
