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
    ("classify(Image.open('{}/cut.png'), LABELS, model)", "DataError", "0: PNG image is cut off or damaged"),
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
        "model is of type NoneType; want a folder or a Hub id",
    ),
    ("classify('{}/pairs/000.png', LABELS, '')", "ConfigError", "the model is ''; want a folder or a Hub id"),
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
        "cannot be used: Not a directory; choose",
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
    ("Embedder('{}/model', batch_size=0)", "ConfigError", "batch_size is 0; want a whole number, 1 or more"),
    ("Embedder('{}/model', text_length=-1)", "ConfigError", "text_length is -1; want a whole number"),
    ("Embedder('{}/none')", "WeightError", "none does not exist; give an existing folder or a Hub id"),
    ("model.texts([])", "DataError", "no texts to embed"),
    ("model.texts('red')", "ConfigError", "texts is 'red'; want a list of texts"),
    ("model.texts([None])", "ConfigError", "element 0 of texts is None; want a text"),
    ("model.pictures([])", "DataError", "pictures has no records"),
    ("model.pictures(3)", "ConfigError", "picture 0 is of type int; want a path"),
    ("classify(CLOSED, LABELS, model)", "DataError", "0: .*Operation on closed image"),
    (
        "classify(Image.new('L', (0, 5)), LABELS, model)",
        "DataError",
        "image of 0x5 pixels, which shows nothing",
    ),
    (
        "classify(Image.new('1', (20_000, 20_000)), LABELS, model)",
        "DataError",
        "of 20000x20000 pixels, more than",
    ),
    ("classify(np.array(3), LABELS, model)", "ConfigError", "picture 0 is of type ndarray; want a path"),
    (
        "classify(bytearray(b'x'), LABELS, model)",
        "ConfigError",
        "picture 0 is of type bytearray; want a path",
    ),
    (
        "classify(memoryview(b'x'), LABELS, model)",
        "ConfigError",
        "picture 0 is of type memoryview; want a path",
    ),
    (
        "classify(open('{}/pairs/000.png', 'rb'), LABELS, model)",
        "ConfigError",
        "is of type BufferedReader; want",
    ),
    ("classify({'image': 1}, LABELS, model)", "ConfigError", "picture 0 is of type dict; want a path"),
    ("classify('{}/pairs/000.png', np.array('cat'), model)", "ConfigError", "no labels to choose from"),
    (
        "classify('{}/pairs/000.png', np.array(['cat', '']), model)",
        "DataError",
        "label 1 is blank; leave it out",
    ),
    ("embed('{}/pairs', None, model)", "ConfigError", "output is of type NoneType; want a path"),
    (
        "embed('{}/pairs', '{}/' + 'a' * 300, model)",
        "ConfigError",
        "more than 230 bytes; wanted a shorter one",
    ),
    (
        "embed('{}/pairs', '{}/new', model, shard_size=1.5)",
        "ConfigError",
        r"shard_size is 1\.5; want a number",
    ),
    (
        "embed('{}/pairs', '{}/new', model, shard_size=True)",
        "ConfigError",
        "shard_size is True; want a number",
    ),
    (
        "embed('{}/pairs', '{}/new', model, shard='0/2')",
        "ConfigError",
        "shard is '0/2'; want two whole numbers",
    ),
    (
        "embed('{}/pairs', '{}/new', model, shard=(0, 1, 2))",
        "ConfigError",
        "want two whole numbers, as in .0, 16",
    ),
    (
        "embed('{}/pairs', '{}/new', '{}/model', dtype='int8')",
        "ConfigError",
        "dtype is 'int8'; want one of float32",
    ),
    ("embed('{}/pairs', '{}/scores', model)", "ConfigError", "scores exists and is not an index; give a new"),
    (
        "search('{}/scores', 'red', model=model)",
        "DataError",
        "written by `lit-jax score`; give .* `lit-jax embed` wrote",
    ),
    ("search(None, 'red', model=model)", "ConfigError", "the index is of type NoneType; want a path"),
    ("search('{}/index', 'red', model=model, top=True)", "ConfigError", "top is True; want a whole number"),
    (
        "search('{}/index', picture=map(str, 'ab'), model=model)",
        "ConfigError",
        "is of type map; want one text",
    ),
    ("search('{}/index', 'red', model=model, dim=True)", "ConfigError", "dim is True, and the vectors of"),
    (
        "score('{}/pairs', '{}/new', model)",
        "ConfigError",
        "the source is of type str; want a source, as open_source",
    ),
    ("score(pairs, '{}/index', model)", "ConfigError", "index exists and is not a set of scores; give a new"),
    ("Scores.open('{}/index')", "DataError", "written by `lit-jax embed`; give .* `lit-jax score` wrote"),
    ("Rules(ids='000')", "ConfigError", "ids is '000'; want a list of texts"),
    ("Rules(ids=[0])", "ConfigError", "element 0 of ids is 0; want a text"),
    (
        "Rules(scores='{}/scores', min=0.1)",
        "ConfigError",
        r"scores is of type str; want Scores\.open\(FOLDER\)",
    ),
    (
        "Rules(scores=Scores.open('{}/scores'), min='.1')",
        "ConfigError",
        r"min is '\.1'; want a number from -1 to 1",
    ),
    ("open_source(3)", "ConfigError", "the source is 3; want its name, or a list of"),
    ("open_source(['folder:{}/pairs'])", "ConfigError", "want its name, or a list of .name, weight"),
    (
        "prepare('folder:{}/pairs', '{}/set', name='x', split='train')",
        "ConfigError",
        "source is of type str; want",
    ),
    (
        "prepare(pairs, '{}/set', name=None, split='train')",
        "ConfigError",
        "does not accept the name None; want",
    ),
    (
        "prepare(pairs, '{}/set', name='x', split='y', options=PrepareOptions(shards=1.5))",
        "ConfigError",
        "shards is 1",
    ),
    ("summarize('{}/pairs')", "ConfigError", "the source is of type str; want a source"),
    ("summarize(pairs, limit='9')", "ConfigError", "limit is '9'; want a whole number, 1 or more"),
    (
        "evaluate('{}/model', '{}/pairs', EvalConfig(tasks='retrieval'))",
        "ConfigError",
        "tasks is 'retrieval'; want a list",
    ),
    ("EvalConfig(captions='en')", "ConfigError", "captions is 'en'; want a list of texts"),
    ("EvalConfig(shots=5)", "ConfigError", "shots is 5; want a list of whole numbers"),
    ("EvalConfig(task=3)", "ConfigError", "task is 3; want the name of a set"),
    ("evaluate(model, '{}/pairs')", "ConfigError", "model is of type Embedder; want a folder or a Hub id$"),
    ("class_names(None, file=['a', 'b'])", "ConfigError", "class_names is of type list; want a path"),
    ("Embedder('{}/model', batch_size='3')", "ConfigError", "batch_size is '3'; want a whole number"),
    ("Embedder('{}/model', batch_size=None)", "ConfigError", "batch_size is None; want a whole number"),
    ("Embedder('{}/model', text_length=1.5)", "ConfigError", r"text_length is 1\.5; want a whole number"),
    (
        "Embedder('{}/model', dtype='float64')",
        "ConfigError",
        "dtype is 'float64'; want one of float32, bfloat16",
    ),
    ("Embedder('{}/model', dtype='nope')", "ConfigError", "dtype is 'nope'; want one of float32"),
    ("load('{}/model', dtype=None)", "ConfigError", "dtype is None; want one of float32"),
    (
        "load('{}/model', image_size=10**9)",
        "ConfigError",
        "image_size is 10+; wanted sides of at most 2048 pixels",
    ),
    ("load(None)", "ConfigError", "the model is of type NoneType; want a path"),
    ("from_towers('{}/model', None)", "ConfigError", "the model is of type NoneType; want a path"),
    (
        "from_towers('{}/model', '{}/model', projection_dim=0)",
        "ConfigError",
        "projection_dim is 0; want a whole number",
    ),
    (
        "from_towers('{}/model', '{}/model', projection_dim='16')",
        "ConfigError",
        "projection_dim is '16'; want a whole",
    ),
    (
        "save('{}/saved', None, {})",
        "ConfigError",
        "the module is of type NoneType; want the first of the two",
    ),
    (
        "save('{}/saved', load('{}/model')[0], {})",
        "ConfigError",
        "params are of type dict and no tree of arrays; want",
    ),
    (
        "save('{}/saved', *load('{}/model'), model.processor.tokenizer)",
        "ConfigError",
        "processor is of type .*; want one",
    ),
    (
        "save('{}/notes.txt', *load('{}/model'))",
        "ConfigError",
        "notes.txt exists and is not a folder; choose another",
    ),
    ("report('{}/empty', '{}/pairs')", "ConfigError", "--output .*pairs is a directory; give a file"),
    ("classify('~nobody-has-this/x.png', LABELS, model)", "DataError", "x.png' cannot be read: No such file"),
    ("classify('', LABELS, model)", "DataError", "the name of a picture is empty; give a path"),
    (
        "embed(['folder:{}/pairs'], '{}/new', model)",
        "DataError",
        "cannot be read: .*; it is a source and no file: give",
    ),
    (
        "score(plain, '{}/new2', model)",
        "DataError",
        "none of its 2 pictures has a caption that can be used; lit-jax inspect",
    ),
    (
        "compare('{}/none', '{}/none')",
        "DataError",
        "the result .*none cannot be read: No such file or directory; write",
    ),
    ("compare(None, None)", "ConfigError", "the result is of type NoneType; want a path"),
    (
        "facade(input_ids=IDS, pixel_values=None)",
        "ConfigError",
        "pixel_values are object of shape .*; wanted an array",
    ),
    (
        "facade(input_ids=IDS, pixel_values='x')",
        "ConfigError",
        "pixel_values are <U1 of shape .*; wanted an array of num",
    ),
    (
        "facade(input_ids=IDS, pixel_values=PIXELS[:0])",
        "ConfigError",
        r"pixel_values have shape \(0, .*; wanted \[batch",
    ),
    (
        "facade(input_ids=IDS[:0], pixel_values=PIXELS)",
        "ConfigError",
        r"int64 of shape \(0, 3\); wanted integers",
    ),
    (
        "facade(input_ids=IDS[:, :0], pixel_values=PIXELS)",
        "ConfigError",
        r"int64 of shape \(2, 0\); wanted integers",
    ),
    (
        "facade.get_text_features([[1, 2], [3]])",
        "ConfigError",
        "input_ids cannot be read as an array: setting an array",
    ),
    (
        "model.processor(images=np.zeros((0, 0, 3), np.uint8))",
        "ConfigError",
        r"shape \(0, 0, 3\), which shows nothing",
    ),
    (
        "model.processor(images=Image.new('L', (0, 5)))",
        "DataError",
        "image of 0x5 pixels, which shows nothing",
    ),
    (
        "from_towers('{}/model', '{}/model', logit_scale_init_value='x')",
        "ConfigError",
        "logit_scale_init_value is 'x'; want a number",
    ),
    (
        "classify('/dev/null', LABELS, model)",
        "DataError",
        "'/dev/null' cannot be read: it is not a regular file",
    ),
    (
        "save('{}/saved', load('{}/model')[0], CYCLE)",
        "ConfigError",
        "the tree of params has more than 64 levels",
    ),
    (
        "open_source([(LIST, 1.0)])",
        "ConfigError",
        "the source has more than 64 levels, or holds itself; give one",
    ),
    (
        "lit_jax.train.loop.train(CYCLE, '{}/new')",
        "ConfigError",
        "the config has more than 64 levels, or holds",
    ),
    (
        "lit_jax.VisionTextDualEncoderModel.from_vision_text_pretrained('{}/model', '{}/model', vision_config=CYCLE)",
        "WeightError",
        "the config of the vision tower has no model_type; wanted one as in",
    ),
    ("open_source('folder:')", "DataError", r"^folder: names nothing; want tfds:NAME\[:VERSION\]/SPLIT"),
    ("open_source('wds:')", "DataError", "^wds: names nothing; want tfds:NAME"),
    ("model.texts(None)", "ConfigError", "texts is None; want a list of texts"),
    ("model.texts({'a': 1})", "ConfigError", "texts is {'a': 1}; want a list of texts"),
    ("model.texts(np.array('red'))", "ConfigError", "texts is array.*; want a list of texts"),
    ("model({'text': ['red', None]})", "ConfigError", "element 1 of text is None; want a text"),
    ("model({'text': [b'red']})", "ConfigError", "element 0 of text is b'red'; want a text"),
    ("model({'text': 'red'})", "ConfigError", "text is 'red'; want a list of texts"),
    (
        "model({'image': [np.zeros((4, 4, 3))]})",
        "ConfigError",
        r"image 0 is an array of float64 \[4 4 3\]; want uint8 \[H W 3\]",
    ),
    (
        "model({'image': [np.zeros((3, 9, 9), np.uint8)]})",
        "ConfigError",
        r"uint8 \[3 9 9\]; want uint8 \[H W 3\]",
    ),
]


ASK = """
import json, sys, warnings
import numpy as np
from PIL import Image
import lit_jax, lit_jax.train.loop
from lit_jax import Embedder, classify, embed, from_towers, load, save, search
from lit_jax.data.sources.registry import open_source
from lit_jax.data.tools.prepare import PrepareOptions, prepare
from lit_jax.data.tools.summary import summarize
from lit_jax.evals.compare import compare
from lit_jax.evals.evaluate import evaluate
from lit_jax.evals.names import class_names
from lit_jax.evals.request import EvalConfig
from lit_jax.inference.filtering import Rules
from lit_jax.inference.scores import Scores, score
from lit_jax.tools.report import report

warnings.simplefilter("error")  # Of what is refused only the sentence shall be seen.
warnings.filterwarnings("ignore", "Image size")  # But for Pillow's own.
place, calls = json.load(sys.stdin)
LABELS = ["red square", "blue circle", "green square"]
model = Embedder(place + "/model")
embed("folder:" + place + "/pairs", place + "/index", model, shard_size=10)
pairs = open_source("folder:" + place + "/pairs")
plain = open_source("folder:" + place + "/plain")
score(pairs, place + "/scores", model)
facade = lit_jax.VisionTextDualEncoderModel.from_pretrained(place + "/model")
IDS, PIXELS = np.ones((2, 3), np.int64), np.zeros((2, 3, 32, 32), np.float32)
CYCLE, LIST = {}, []
CYCLE["model"] = CYCLE
LIST.append((LIST, 1.0))
CLOSED = Image.open(place + "/pairs/000.png")
CLOSED.close()
for call in calls:
    try:
        found = ["nothing", False, repr(eval(call.replace("{}/", place + "/")))]
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
    (place / "plain").mkdir()
    for number in range(2):
        (place / "plain" / f"{number}.png").write_bytes(whole)
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
