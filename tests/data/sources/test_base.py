"""`open_source`: the source that a name stands for."""

import subprocess
import sys
from pathlib import Path

import pytest

import lit_jax
from lit_jax.data.sources.base import Source, check_caption
from lit_jax.data.sources.registry import open_source
from lit_jax.data.tools.prepare import prepare
from lit_jax.utils.errors import DataError

WITHOUT = """
import sys
from importlib.machinery import PathFinder
class WithoutThem(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = name.split(".")[0] in ("torch", "torchvision", "tensorflow")
        return None if absent else super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutThem
import lit_jax.data.sources.registry
loaded = {"grain", "tensorflow_datasets", "transformers"} & set(sys.modules)
assert not loaded, loaded
from lit_jax.data.eval_batches import image_batches
from lit_jax.data.sources.registry import open_source
from lit_jax.data.tools.prepare import PrepareOptions, prepare
from lit_jax.data.tools.summary import summarize as inspect
sys.path.insert(0, ROOT)
from tests.data.conftest import decode, pairs_of, read_batches, write_forms
from pathlib import Path
pairs = pairs_of(40)
specs = write_forms(Path(OUT), pairs)
mixture = [(spec, 1.0) for spec in specs.values()]
for spec in [*specs.values(), mixture]:
    source = open_source(spec)
    batches = read_batches(source, threads=2)
    assert next(batches)["images"].shape == (8, 4, 4, 3)
    batches.close()
    assert sum(b["mask"].sum() for b in image_batches(source, decode, batch_size=16)) == len(source)
    assert inspect(source, sheet=OUT + "/sheet.png")["broken"] == 0
options = PrepareOptions(resize=5, dedup=True)
out = prepare(source, OUT + "/mixed", name="mixed", split="train", options=options)
assert len(open_source(f"tfds:{out}/train")) == 40
assert not {"transformers", "tensorflow", "torch"} & set(sys.modules)
print("done", end="")
"""


def test_the_files_of_a_directory_decide_its_kind(folder, tmp_path):
    assert open_source(str(folder)).spec == f"folder:{folder}"
    prepare(open_source(str(folder)), tmp_path / "set", name="tiny", split="train")
    assert open_source(f"{tmp_path}/set").spec == f"tfds:{tmp_path}/set/train"
    assert open_source(f"{tmp_path}/set/train[:10]").spec == f"tfds:{tmp_path}/set/train[:10]"
    assert all(isinstance(open_source(str(d)), Source) for d in (folder, tmp_path / "set"))


@pytest.mark.parametrize("spec", ["nowhere", "zip:shards.tar", "", "folder", "ftq://a.b/c"])
def test_the_error_for_an_unknown_name_lists_the_forms(spec):
    with pytest.raises(DataError, match=r"is not a directory; want one, or tfds:NAME|without metadata"):
        open_source(spec)


def test_a_directory_that_is_not_a_source_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"without metadata\.jsonl.* \(a folder\), dataset_info\.json"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("text", ["a", "猫", " x ", "😀", "a\nb", "[SEP] [CLS]"])
def test_a_caption_with_a_visible_character_is_accepted(text):
    assert check_caption(text) == text


def test_sources_prepare_and_inspect_need_no_torch_tensorflow_or_parsed_flags(tmp_path):
    constants = f"ROOT, OUT = {str(Path(lit_jax.__file__).parents[1])!r}, {str(tmp_path)!r}\n"
    done = subprocess.run([sys.executable, "-c", constants + WITHOUT], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "done"), done.stderr
