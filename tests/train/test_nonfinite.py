import json

import pytest

from lit_jax.train.loop import train
from lit_jax.train.nonfinite import NonFiniteGuard
from lit_jax.utils.errors import NonFiniteError
from tests import tiny


def test_ten_in_a_row_end_the_run_and_nine_do_not():
    skips = NonFiniteGuard()
    for step in range(1, 10):
        skips.add(step, True)
    skips.add(10, False)
    skips = NonFiniteGuard()
    for step in range(1, 10):
        skips.add(step, True)
    with pytest.raises(
        NonFiniteError, match=r"step 10: the last 10 steps .* were skipped; nothing of it was saved"
    ):
        skips.add(10, True)
    assert skips.total == 10


def test_more_than_one_percent_of_the_last_thousand_end_the_run():
    skips = NonFiniteGuard()
    for step in range(1, 3001):
        skips.add(step, step % 101 == 0)  # 9 or 10 in each thousand.
    skips = NonFiniteGuard()
    with pytest.raises(NonFiniteError, match="step 990: 11 of the last 990 steps"):
        for step in range(1, 2000):
            skips.add(step, step % 90 == 0)


@pytest.mark.parametrize(
    ("steps", "says"), [(4, r"step 4: each step of the run \(4\)"), (10, "step 10: the last 10 steps")]
)
def test_a_run_that_learnt_nothing_in_any_step_is_not_finished_and_is_refused_again(tmp_path, steps, says):
    changes = {
        "steps": steps,
        "save_every": 3,
        "model__logit_scale_init": 75.0,
    }  # The norm of the gradient overflows.
    config = tiny.config(tmp_path, **changes)
    for _ in range(2):  # The second call resumes in the middle.
        with pytest.raises(NonFiniteError, match=says if steps < 10 else "were skipped|not finite"):
            train(config, tmp_path / "run")
        names = {path.name for path in (tmp_path / "run" / "checkpoints").glob("step_*")}
        assert f"step_{steps}" not in names and "step_3" in names
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any(row.get("skipped") for row in rows)
