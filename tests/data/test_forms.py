"""The same pairs give the same training data, whatever form they are stored in."""

import pickle
import shutil

import numpy as np
import pytest

from lit_jax.data.sources.registry import open_source
from tests.data.conftest import pairs_of, read_batches, write_forms

FORMS = ("folder", "wds", "parquet", "arrow", "tfds")


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    root = tmp_path_factory.mktemp("forms")
    pairs = pairs_of(200)
    return root, pairs, write_forms(root, pairs)


def check(pairs, specs):
    """Records equal `pairs` in every form; batches, over two epochs, equal those of the folder."""
    want = [{"image": image, "captions": captions, "id": name} for name, image, captions in pairs]
    batches = {}
    for form in FORMS:
        source = open_source(specs[form])
        assert [source[i] for i in range(len(source))] == want, form
        some = read_batches(source, batch_size=40, threads=2)
        batches[form] = [next(some) for _ in range(2 * len(pairs) // 40)]
        some.close()
    for form in FORMS[1:]:
        for ours, theirs in zip(batches[form], batches["folder"], strict=True):
            np.testing.assert_array_equal(ours["images"], theirs["images"])
            np.testing.assert_array_equal(ours["index"], theirs["index"])
            np.testing.assert_array_equal(ours["texts"]["input_ids"], theirs["texts"]["input_ids"])


@pytest.mark.slow
def test_the_same_1000_pairs_in_five_forms_give_the_same_ids_bytes_and_batches(tmp_path):
    pairs = pairs_of(1000)
    check(pairs, write_forms(tmp_path, pairs))


@pytest.mark.parametrize("form", FORMS)
def test_a_pickled_source_reads_the_same_and_is_small(forms, form):
    source = open_source(forms[2][form])
    data = pickle.dumps(source)
    again = pickle.loads(data)
    assert len(data) < 500 and again[77] == source[77] and again.fingerprint() == source.fingerprint()


@pytest.mark.parametrize("form", FORMS)
def test_a_record_beyond_the_end_is_an_index_error(forms, form):
    source = open_source(forms[2][form])
    for index in (200, -1):
        with pytest.raises(IndexError):
            source[index]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("form", FORMS)
def test_the_fingerprint_follows_the_content_and_not_the_place(forms, form, tmp_path):
    root, pairs, specs = forms
    before = open_source(specs[form]).fingerprint()
    copy = shutil.copytree(root, tmp_path / "copy")
    moved = specs[form].replace(str(root), str(copy))
    assert open_source(moved).fingerprint() == before
    other = [(name, image, ["x"] if name == "000123" else texts) for name, image, texts in pairs]
    (tmp_path / "other").mkdir()
    assert open_source(write_forms(tmp_path / "other", other)[form]).fingerprint() != before
