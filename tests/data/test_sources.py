"""`open_source`: which source a name means."""

import subprocess
import sys

import pytest

from lit_jax.data import Source, open_source, prepare
from lit_jax.data.sources import check_caption
from lit_jax.errors import DataError

WITHOUT = """
import sys
sys.modules["torch"] = sys.modules["torchvision"] = None
import lit_jax.data
loaded = {"grain", "tensorflow_datasets", "transformers"} & set(sys.modules)
assert not loaded, loaded
from lit_jax.data import open_source, prepare, image_batches, train_batches
sys.path.insert(0, ROOT)
from tests.data.conftest import decode, tokenize
folder = open_source(f"folder:{FOLDER}")
prepare(folder, OUT, name="tiny", split="train")
source = open_source(f"tfds:{OUT}/train")
batches = train_batches(source, decode=decode, tokenize=tokenize, batch_size=8, seed=0, threads=2)
assert next(batches)["images"].shape == (8, 4, 4, 3)
assert sum(b["mask"].sum() for b in image_batches(source, decode=decode, batch_size=16)) == 40
assert not {"tensorflow", "transformers"} & set(sys.modules)
print("done", end="")
"""


def test_a_bare_directory_is_known_by_what_it_holds(folder, tmp_path):
    assert open_source(str(folder)).spec == f"folder:{folder}"
    prepare(open_source(str(folder)), tmp_path / "set", name="tiny", split="train")
    assert open_source(f"{tmp_path}/set").spec == f"tfds:{tmp_path}/set/train"
    assert open_source(f"{tmp_path}/set/train[:10]").spec == f"tfds:{tmp_path}/set/train[:10]"
    assert all(isinstance(open_source(str(d)), Source) for d in (folder, tmp_path / "set"))


@pytest.mark.parametrize("spec", ["nowhere", "zip:shards.tar", "", "folder", "ftq://a.b/c"])
def test_a_name_that_is_not_understood_is_told_the_forms(spec):
    with pytest.raises(DataError, match=r"is not a directory, and not tfds:NAME|neither metadata"):
        open_source(spec)


def test_a_directory_that_is_no_source_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"neither metadata\.jsonl.* \(a folder\), dataset_info\.json"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("text", ["a", "猫", " x ", "😀", "a\nb", "[SEP] [CLS]"])
def test_a_caption_with_something_to_see_is_fine(text):
    assert check_caption(text) == text


def test_data_need_neither_torch_nor_tensorflow_nor_parsed_flags(folder, tmp_path):
    constants = f"ROOT, FOLDER, OUT = {sys.path[0]!r}, {str(folder)!r}, {str(tmp_path / 'set')!r}\n"
    done = subprocess.run([sys.executable, "-c", constants + WITHOUT], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "done"), done.stderr
