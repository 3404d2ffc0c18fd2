"""What the loop of a run does besides the steps."""

import dataclasses
from collections import Counter

import jax
import jax.numpy as jnp
import optax
from fsspec.implementations.local import LocalFileSystem

from lit_jax.data.sources.folder import FolderSource
from lit_jax.train import build
from lit_jax.train.loop import train
from tests import tiny

STEPS, BATCH = 9, 8


def test_a_step_does_nothing_to_a_source_but_read_its_records(tmp_path, monkeypatch):
    calls: Counter[str] = Counter()
    of_step = []

    def count(cls, name):
        plain = getattr(cls, name)

        def counted(self, *args, **options):
            calls[name] += 1
            return plain(self, *args, **options)

        monkeypatch.setattr(cls, name, counted)

    def make_step(*_):
        """A step that costs nothing to compile."""

        def step(state, batch):
            of_step.append(Counter(calls))
            count = jax.device_put(state.step + 1, state.step.sharding)
            after = dataclasses.replace(state, step=count, opt=optax.tree.set(state.opt, count=count))
            return after, {"loss": jnp.zeros(()), "skipped": jnp.zeros(())}

        def allowed(state, batch):
            with jax.transfer_guard("allow"):
                return step(state, batch)

        return allowed

    monkeypatch.setattr(build, "make_train_step", make_step)
    config = tiny.config(
        tmp_path, steps=STEPS, batch_size=BATCH, save_every=3, data__threads=0, data__test=""
    )
    for name in ("fingerprint", "__getitem__"):
        count(FolderSource, name)
    for name in ("cat_file", "_open", "info", "ls", "find"):
        count(LocalFileSystem, name)
    train(config, tmp_path / "run")

    assert calls["fingerprint"] == 1
    # The fingerprint reads every record, the check for captions reads one, and the batches read the rest.
    assert calls["__getitem__"] == 24 + 1 + STEPS * BATCH
    assert (of_step[-1] - of_step[0]).keys() == {"__getitem__", "cat_file", "_open"}
