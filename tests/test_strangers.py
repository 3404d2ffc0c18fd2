"""No control character in a name chosen by others reaches a terminal or a page, whichever command prints it."""

import ast
import html
import json
import logging
import shutil
import unicodedata
from pathlib import Path

import pytest

import lit_jax
from lit_jax.__main__ import COMMANDS, main
from lit_jax.data.sources.registry import open_source
from lit_jax.data.tools import contact_sheet
from lit_jax.hf import model_folder
from lit_jax.hf import save as saving
from lit_jax.hf.model_card import Card, Data, Evaluation, Tower, model_card
from lit_jax.tools import pages
from lit_jax.tools.report import report
from lit_jax.train.loop import train
from lit_jax.utils.errors import LitJaxError
from tests import tiny
from tests.evals.test_compare import write as write_result

PACKAGE = Path(lit_jax.__file__).parent
ODD = "\x1b]0;owned\x07\u202egnp.exe\x9b31m\x7f\u2028\r"
SEEN = r"\x1b]0;owned\x07\u202egnp.exe\x9b31m\x7f"  # How ODD is shown, without the whitespace at its end.
KEPT = "\n\t\u200c\u200d\u00ad\u200b"


def hidden(text):
    """The characters of a text that a terminal or a browser would obey, or not show."""
    return {c for c in text if c not in KEPT and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run of two steps, a model, pictures, and results to compare, all with odd names."""
    folder = tmp_path_factory.mktemp("strangers") / f"a{ODD}"
    config = tiny.config(folder, steps=2, eval_every=2, optim__warmup_steps=1)
    pairs = folder / "pairs"
    rows = [json.loads(line) for line in (pairs / "metadata.jsonl").read_text().splitlines()]
    for row in rows:
        (pairs / row["file_name"]).rename(pairs / f"{ODD}{row['file_name']}")
        row |= {
            "file_name": f"{ODD}{row['file_name']}",
            "id": f"{ODD}{row['id']}",
            "label": f"{row['id'][-1]}{ODD}",
        }
        row["captions"][0] += f" {ODD}"
        row[f"caption{ODD.strip()}"] = row["captions"][0]
    (pairs / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train(config, folder / f"run{ODD}")
    with (folder / f"run{ODD}" / "metrics.jsonl").open("a") as metrics:
        metrics.write(json.dumps({"step": 2, f"test/{ODD}": 0.5, "loss": ODD}) + "\n")
    (folder / f"run{ODD}" / f"stray{ODD}").write_text("")
    saving.save(folder / f"model{ODD}", *tiny.dual(), tiny.processor())
    (folder / f"labels{ODD}").write_text(f"red {ODD}\nblue\n".replace("\r", ""), encoding="utf-8")
    ranks = [1, 3, 1, 2]
    for name, words in (("a", "{}"), ("b", "{}"), ("c", f"a {ODD} {{}}")):
        write_result(folder / f"{name}{ODD}.json", ranks, templates=[words], queries=False)
        result = json.loads((folder / f"{name}{ODD}.json").read_text())
        for part in ("metrics", "intervals"):
            values = result[part]["zero_shot"]
            values[f"top{ODD}"] = values["top1"]
        (folder / f"{name}{ODD}.json").write_text(json.dumps(result))
    config["model"][f"x{ODD}"] = ODD
    (folder / "config.py").write_text(
        "import json\nfrom ml_collections import ConfigDict\n\n\n"
        f"def get_config():\n    return ConfigDict(json.loads({json.dumps(config)!r}))\n"
    )
    return folder


RUNS = [  # A command, where @ is the folder and ~ the odd name; and whether it succeeds.
    ("embed folder:@/pairs --model @/model~ --output @/index~", True),
    ("search @/index~ --query red~ --model @/model~", True),
    ("classify @/pairs/~000.png --model @/model~ --labels @/labels~", True),
    ("classify @/pairs/~000.png --model @/model~ --labels a,b~ --prompts ~", False),
    ("inspect folder:@/pairs --sheet @/sheet~.png", True),
    ("inspect folder:@/pairs --caption none~", False),
    ("evaluate --model @/model~ --data folder:@/pairs --tasks ~", False),
    (
        "evaluate --model @/model~ --data folder:@/pairs --tasks multilingual --captions captions,caption~",
        True,
    ),
    ("compare @/a~.json @/b~.json", True),
    ("compare @/a~.json @/c~.json", False),
    ("doctor --workdir @/run~", True),
    ("report --workdir @/run~", True),
    ("export --workdir @/run~ --output @/export~", True),
    ("convert @/model~ @/converted~ --layout lit_jax", True),
    ("blend @/model~ @/model~ --alpha 0.5 --output @/blend~ --layout lit_jax", True),
    ("prepare folder:@/pairs --output @/set~ --name pairs --split train --processes 1", True),
    ("prepare folder:@/pairs --output @/set2 --name pairs~ --split train --processes 1", False),
    ("score folder:@/pairs --model @/model~ --output @/scores~", True),
    ("filter folder:@/pairs --scores @/scores~ --min -1 --output @/kept~ --processes 1", True),
    ("grid --workdir @/grid~ --cells ~", False),
    ("align @/none~ @/none~ folder:@/none~ --workdir @/align~", False),
    ("plan --config @/config.py --topology v5e:2x4", False),
    ("train --config @/config.py --workdir @/run2~", False),
    ("quickstart --config @/config.py --workdir @/run2~", False),
    ("demo --model @/none~", False),
    ("serve --model @/none~", False),
    ("encoders", True),
]


@pytest.mark.parametrize(("words", "succeeds"), RUNS, ids=[words.partition("@")[0] for words, _ in RUNS])
def test_no_control_character_from_others_reaches_the_terminal(words, succeeds, place, capsys, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])  # Removes those of pytest; the command makes its own.
    with pytest.raises(SystemExit) as end:
        main([word.replace("@", str(place)).replace("~", ODD) for word in words.split()])
        raise SystemExit(0)
    said = capsys.readouterr()
    assert end.value.code in ((0, None) if succeeds else (2, 3, 4)), said.err
    assert hidden(said.out) == hidden(said.err) == set()
    assert SEEN in said.out + said.err or "~" not in words
    if not succeeds:
        assert "Traceback" not in said.err


def test_every_command_is_tried_with_odd_names():
    assert {words.split()[0] for words, _ in RUNS} == set(COMMANDS)


def test_a_page_and_a_card_hide_no_character(place):
    report(place / f"run{ODD}", place / "page.html")
    page = html.unescape((place / "page.html").read_text("utf-8"))
    assert not hidden(page) and page.count(SEEN) > 20
    for shown in (f"<title>run{SEEN}", f"red square {SEEN}"):
        assert shown in page
    card = model_card(
        Card(
            f"name{ODD}",
            "mit",
            Tower(ODD, ODD, "locked"),
            Tower(ODD, "mit", "tuned"),
            Data(ODD, "mit", ODD),
            {ODD: {"b": ODD}},
            [Evaluation(ODD, ODD, ODD, {ODD: 0.5})],
            limitations=[ODD],
            tags=[ODD],
        )
    )
    assert not hidden(card) and card.count("x1b") > 10


@pytest.mark.parametrize("template", ["mistake.html", "hits.html", "labels.html"])
def test_the_parts_of_the_demo_page_hide_no_character(template):
    hit = {"number": 0, "id": ODD, "score": 0.5}
    page = pages.render(
        template, sentence=ODD, hits=[hit], seen=True, captions={0: ODD}, shares={ODD: 0.5}, shown=5
    )
    assert SEEN in html.unescape(page) and not hidden(html.unescape(page))


def test_a_contact_sheet_draws_hidden_characters_escaped(place, monkeypatch):
    drawn = []
    draw = contact_sheet.ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        contact_sheet.ImageDraw.ImageDraw,
        "text",
        lambda self, at, text, *style: drawn.append(text) or draw(self, at, text, *style),
    )
    contact_sheet.contact_sheet(open_source(f"folder:{place / 'pairs'}"), range(3))
    assert len(drawn) > 8 and not hidden("".join(drawn)) and "x1b" in "".join(drawn)


def test_names_of_tensors_and_values_of_configs_are_shown_in_errors(tmp_path):
    module, params = tiny.dual()
    saving.save(tmp_path / "m", module, params, tiny.processor())
    tensors = dict(model_folder.Tensors.of(tmp_path / "m"))
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    for wrong in (
        lambda: model_folder.write(tmp_path / "m", config, tensors | {f"x{ODD}": tensors["logit_scale"]}),
        lambda: (tmp_path / "m" / "config.json").write_text(json.dumps(config | {"model_type": ODD})),
        lambda: (tmp_path / "m" / "config.json").write_text(json.dumps(config | {"projection_dim": ODD})),
    ):
        wrong()
        with pytest.raises(LitJaxError) as error:
            lit_jax.load(tmp_path / "m")
        assert not hidden(str(error.value)) and "x1b" in str(error.value)
    shutil.rmtree(tmp_path / "m")


def test_nothing_in_the_package_prints_directly():
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name in ("print", "click.echo", "click.secho") or name.startswith(
                    ("sys.stdout.w", "sys.stderr.w")
                ):
                    found.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert found == []
