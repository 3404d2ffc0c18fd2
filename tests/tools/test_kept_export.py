"""The export in a workdir follows its run: another best pair, or more steps, are exported again."""

import pytest

from lit_jax.tools import kept_export
from lit_jax.tools.kept_export import ORIGIN, keep_exported
from lit_jax.workdir.checkpoints import Checkpoints
from tests.workdir.test_checkpoints import state_of


@pytest.fixture
def exported(monkeypatch):
    """The runs that were exported, in order; a folder holds the name of its run."""
    done = []

    def export(run, folder, about, *, layout):
        done.append(run.name)
        folder.mkdir()
        (folder / "config.json").write_text(run.name)

    monkeypatch.setattr(kept_export, "export", export)
    return done


def saved(run, *steps):
    ours, state = Checkpoints(run, save_every=1), state_of(0)
    if ours.latest() is not None:
        state, _ = ours.restore(state)
    for step in steps:
        ours.save(step, state.replace(step=state_of(step).step), {})
    ours.close()


def test_an_export_is_written_again_if_another_run_is_the_best_or_the_run_has_gone_on(tmp_path, exported):
    first, second, folder = tmp_path / "0-a", tmp_path / "1-b", tmp_path / "export"
    saved(first, 2)
    saved(second, 2)
    for run in (first, first, second, second):
        keep_exported(run, folder, layout="hf")
    assert exported == ["0-a", "1-b"] and (folder / "config.json").read_text() == "1-b"
    saved(second, 4)
    keep_exported(second, folder, layout="hf")
    assert exported == ["0-a", "1-b", "1-b"]
    assert (tmp_path / ORIGIN).read_text() == "1-b, step 4\n"


def test_a_folder_whose_origin_is_not_known_is_kept(tmp_path, exported):
    saved(tmp_path / "run", 2)
    (tmp_path / "export").mkdir()
    keep_exported(tmp_path / "run", tmp_path / "export", layout="hf")
    assert not exported and not (tmp_path / ORIGIN).exists()
