"""A model folder with checksums is read only if its files are those that were written."""

import pytest

from lit_jax.hf import hub, load
from lit_jax.hf import save as saving
from lit_jax.hf.processor import load_processor
from lit_jax.tools.export import convert
from lit_jax.utils.errors import WeightError
from tests import tiny


@pytest.fixture
def exported(tmp_path):
    saving.save(tmp_path / "plain", *tiny.dual(), tiny.processor())
    return convert(tmp_path / "plain", tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("model.safetensors", load.load),
        ("config.json", load.load),
        ("processor_config.json", load_processor),
        ("tokenizer.json", load_processor),
    ],
)
def test_a_changed_file_is_reported_with_the_way_out(exported, name, read):
    content = (exported / name).read_bytes()
    (exported / name).write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
    with pytest.raises(
        WeightError, match=rf"{name} has another sha256 .*; copy the folder again, or, .* delete SHA256SUMS"
    ):
        read(exported)
    (exported / name).write_bytes(content)
    read(exported)


def test_a_folder_that_is_rewritten_has_no_old_checksums(exported):
    saving.save(exported, *tiny.dual(1), tiny.processor())
    assert not (exported / "SHA256SUMS").exists()
    load.load(exported)


def test_files_that_were_left_out_of_a_copy_are_not_asked_for(exported):
    (exported / "tokenizer.json").unlink()
    assert hub.find(exported) == exported


def test_checksums_that_cannot_be_read_cause_a_warning(exported, caplog):
    (exported / "SHA256SUMS").write_text("MD5 (model) = 0\n")
    load.load(exported)
    assert "SHA256SUMS is cut off or damaged; the files are read unchecked" in caplog.text


def test_a_subfolder_has_checksums_of_its_own(exported):
    (exported / "config.json").write_text((exported / "config.json").read_text() + "\n")
    with pytest.raises(WeightError, match=r"config\.json has another sha256"):
        hub.find(exported.parent, subfolder=exported.name)
