"""Mistakes in calls from Python: each is a ValueError of one sentence, even where a type is wrong.

All calls run in a process of their own, as with users: in this one, jaxtyping checks every argument first.
"""

import json
import re
import subprocess
import sys

import pytest

from lit_jax.inference.index_files import MANIFEST
from tests import tiny

SENTENCES = [  # A call with a mistake; the error's type and words. {} is the folder that `said` makes.
    (
        "classify('{}/notes.txt', LABELS, model)",
        "DataError",
        r"notes\.txt: not an image: 10 bytes that are none of",
    ),
    (
        "classify('{}/vast.png', LABELS, model)",
        "DataError",
        "image of 10000x10000 pixels, more than the 64,000,000",
    ),
    ("classify(Image.new('1', (10_000, 10_000)), LABELS, model)", "DataError", "image of 10000x10000 pixels"),
    ("classify('{}/cut.png', LABELS, model)", "DataError", r"cut\.png: PNG image is cut off or damaged"),
    ("classify(Image.open('{}/cut.png'), LABELS, model)", "DataError", "0: the image is cut off or damaged"),
    ("classify(Image.new('F', (4, 4)), LABELS, model)", "DataError", "image of floats; want one of 8 bits"),
    ("classify('{}/none.png', LABELS, model)", "DataError", r"none\.png' cannot be read: No such file"),
    ("classify('{}/pairs', LABELS, model)", "DataError", "pairs' cannot be read: Is a directory"),
    ("classify([], LABELS, model)", "ConfigError", "no pictures to classify; give at least one"),
    ("classify(None, LABELS, model)", "ConfigError", "picture 0 is of type NoneType; want a path"),
    (
        "classify([np.zeros((4, 4, 3))], LABELS, model)",
        "ConfigError",
        "0 is of type ndarray; want .*fromarray",
    ),
    ("classify('{}/pairs/000.png', None, model)", "ConfigError", "no labels to choose from; give some"),
    ("classify('{}/pairs/000.png', [], model)", "ConfigError", "no labels to choose from; give some"),
    ("classify('{}/pairs/000.png', [''], model)", "ConfigError", "no labels to choose from; give some"),
    ("classify('{}/pairs/000.png', ['a', ''], model)", "DataError", "label 1 is blank; leave it out"),
    (
        "classify('{}/pairs/000.png', 'cat', model)",
        "ConfigError",
        r"labels is one text, 'cat'; want a list: \['cat'\]",
    ),
    ("classify('{}/pairs/000.png', [1, 2], model)", "ConfigError", "label 0 is 1; want a text"),
    (
        "classify('{}/pairs/000.png', LABELS, model, prompts=None)",
        "ConfigError",
        "neither a file nor one of name",
    ),
    (
        "classify('{}/pairs/000.png', LABELS, '{}/none')",
        "WeightError",
        "none does not exist; give an existing folder",
    ),
    ("classify('{}/pairs/000.png', LABELS, '{}/empty')", "WeightError", r"empty has no config\.json"),
    (
        "classify('{}/pairs/000.png', LABELS, None)",
        "ConfigError",
        "model is of type NoneType; want a folder, a Hub id",
    ),
    ("classify('{}/pairs/000.png', LABELS, '')", "ConfigError", "the model is ''; want a folder, a Hub id"),
    ("embed(['{}/cut.png'], '{}/new', model)", "DataError", r"cut\.png: PNG image is cut off or damaged"),
    ("embed('{}/vast.png', '{}/new', model)", "DataError", "image of 10000x10000 pixels, more than"),
    ("embed([], '{}/new', model)", "DataError", "no pictures to embed; give at least one"),
    ("embed(None, '{}/new', model)", "ConfigError", "picture 0 is of type NoneType; want a path"),
    ("embed('floder:x', '{}/new', model)", "DataError", "no source 'floder:x': it is not a directory"),
    (
        "embed('folder:{}/empty', '{}/new', model)",
        "DataError",
        r"holds no metadata\.jsonl and no pictures; want",
    ),
    (
        "embed(['{}/pairs/000.png'], '{}/pairs', model)",
        "ConfigError",
        "exists and is not an index; give a new",
    ),
    (
        "embed(['{}/pairs/000.png'], '{}/notes.txt/i', model)",
        "ConfigError",
        "cannot be written: Not a directory; choose",
    ),
    (
        "embed('{}/pairs', '{}/index', '{}/other', shard_size=10)",
        "ConfigError",
        "an index of another model; give",
    ),
    (
        "embed('{}/pairs', '{}/new', model, shard_size=0)",
        "ConfigError",
        "shard_size is 0; want a number of pictures, 1 or more",
    ),
    (
        "embed('{}/pairs', '{}/new', model, format='csv')",
        "ConfigError",
        "format is 'csv'; want 'npy' or 'parquet'",
    ),
    (
        "search('{}/empty', 'red', model=model)",
        "DataError",
        "empty is not an index: .*`lit-jax embed` writes one",
    ),
    ("search('{}/none', 'red', model=model)", "DataError", "none is not an index"),
    ("search('{}/index', 'red', model='{}/other')", "DataError", "made by another model .* give that model"),
    (
        "search('{}/index', '', model=model)",
        "ConfigError",
        "give one query: a text that is not blank, or a picture",
    ),
    ("search('{}/index', model=model)", "ConfigError", "give one query"),
    ("search('{}/index', 'red', picture='{}/pairs/000.png', model=model)", "ConfigError", "give one query"),
    (
        "search('{}/index', ['red'], model=model)",
        "ConfigError",
        "query is of type list; want one text or one picture",
    ),
    (
        "search('{}/index', picture=['{}/pairs/000.png'], model=model)",
        "ConfigError",
        "is of type list; want one text",
    ),
    ("search('{}/index', picture='{}/notes.txt', model=model)", "DataError", r"notes\.txt: not an image"),
    (
        "search('{}/index', 'red', model=model, top=0)",
        "ConfigError",
        "top is 0; want a whole number, 1 or more",
    ),
    ("search('{}/index', 'red', model=model, top=2.5)", "ConfigError", r"top is 2\.5; want a whole number"),
    ("Embedder('{}/model', batch_size=0)", "ConfigError", "batch_size is 0; want 1 or more"),
    ("Embedder('{}/model', text_length=-1)", "ConfigError", "text_length is -1; want 1 or more"),
    ("Embedder('{}/none')", "WeightError", "none does not exist; give an existing folder or a Hub id"),
    ("model.texts([])", "DataError", "no texts to embed"),
    ("model.texts('red')", "ConfigError", "texts is 'red'; want a list of texts"),
    ("model.texts([None])", "ConfigError", r"texts is \[None\]; want a list of texts"),
    ("model.pictures([])", "DataError", "pictures has no records"),
    ("model.pictures(3)", "ConfigError", "picture 0 is of type int; want a path"),
]


ASK = """
import json, sys, warnings
import numpy as np
from PIL import Image
import lit_jax
from lit_jax import Embedder, classify, embed, search

warnings.simplefilter("error")  # Of what is refused only the sentence shall be seen.
warnings.filterwarnings("ignore", "Image size")  # But for Pillow's own.
place, calls = json.load(sys.stdin)
LABELS = ["red square", "blue circle", "green square"]
model = Embedder(place + "/model")
embed("folder:" + place + "/pairs", place + "/index", model, shard_size=10)
for call in calls:
    try:
        found = ["nothing", False, repr(eval(call.replace("{}", place)))]
    except Exception as error:
        found = [type(error).__name__, isinstance(error, ValueError), str(error)]
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """Call -> [name of the error, whether it is a ValueError, what it says]."""
    place = tmp_path_factory.mktemp("bad_input")
    tiny.write_models_and_pictures(place)
    whole = (place / "pairs" / "000.png").read_bytes()
    (place / "cut.png").write_bytes(whole[: len(whole) // 2])
    (place / "empty").mkdir()
    calls = [call for call, _, _ in SENTENCES]
    done = subprocess.run(
        [sys.executable, "-c", ASK], input=json.dumps([str(place), calls]), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not (place / "new" / MANIFEST).exists()
    return dict(zip(calls, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize(("call", "error", "says"), SENTENCES, ids=[call for call, _, _ in SENTENCES])
def test_a_mistake_in_python_is_a_value_error_of_one_sentence(said, call, error, says):
    name, is_value_error, sentence = said[call]
    assert (name, is_value_error) == (error, True), sentence
    assert re.search(says, sentence) and "\n" not in sentence
