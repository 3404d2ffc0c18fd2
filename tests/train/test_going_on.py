"""A run goes on with more steps if that changes none of the steps done; otherwise it says why not."""

import chex
import pytest

from lit_jax.config import read_config
from lit_jax.train.going_on import check_steps
from lit_jax.train.loop import train
from lit_jax.utils.errors import ConfigError
from tests import tiny

PLAIN = {"steps": 4, "batch_size": 8, "model": {"vision": "v", "text": "t"}, "data": {"train": "folder:x"}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "added"),
    [pytest.param("rsqrt", {}, marks=pytest.mark.slow), ("constant", {"cooldown_steps": 4, "end_lr": 1e-4})],
    ids=["rsqrt", "a new cooldown"],
)
def test_more_steps_end_in_the_bits_of_a_straight_run(schedule, added, tmp_path):
    def config(steps, **optim):
        given = {f"optim__{name}": value for name, value in optim.items()}
        return tiny.config(tmp_path, steps=steps, data__test="", optim__schedule=schedule, **given)

    train(config(3), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"another config \(optim.b1: 0.9, now 0.8\)"):
        train(config(7, b1=0.8), tmp_path / "run")
    state = train(config(7, **added), tmp_path / "run")
    straight = train(config(7, **added), tmp_path / "straight")
    assert int(state.step) == 7
    chex.assert_trees_all_equal((state.tuned, state.opt), (straight.tuned, straight.opt))
    assert int(train(config(7, **added), tmp_path / "run").step) == 7  # The workdir knows its new config.


def check(done, before, now):
    old, new = (read_config(PLAIN | {"steps": steps, "optim": optim}) for steps, optim in (before, now))
    check_steps(old, new, done, "w")


CONSTANT = {"schedule": "constant", "warmup_steps": 2, "peak_lr": 1e-2}


@pytest.mark.parametrize(
    ("done", "before", "now"),
    [
        (4, (4, CONSTANT), (9, CONSTANT)),
        (4, (9, CONSTANT), (4, CONSTANT)),
        (4, (4, CONSTANT), (9, CONSTANT | {"cooldown_steps": 5})),
        (7, (9, CONSTANT | {"cooldown_steps": 2}), (20, CONSTANT | {"cooldown_steps": 4})),
        (5000, (5000, CONSTANT | {"schedule": "rsqrt"}), (9000, CONSTANT | {"schedule": "rsqrt"})),
        (0, (4, {}), (9, {})),
        (2, (4, {"warmup_steps": 2}), (9, {"warmup_steps": 2})),
    ],
)
def test_a_run_goes_on_if_the_learning_rates_of_its_steps_stay(done, before, now):
    check(done, before, now)


@pytest.mark.parametrize(
    ("done", "before", "now", "why"),
    [
        # Step 4 is the second of two after the warm-up, half way down; of seven, it is one seventh of the way down.
        (
            4,
            (4, CONSTANT | {"schedule": "linear"}),
            (9, CONSTANT | {"schedule": "linear"}),
            "w has done 4 of 4 steps and cannot go on with config.steps=9: the learning rate of step 4 was 0.005 and "
            "would have been 0.008571, since linear depends on the number of steps; the schedules rsqrt and constant ",
        ),
        (4, (4, {}), (9, {}), "step 2 was 0.0008536 and would have been 0.0009698, since cosine depends on"),
        (
            4,
            (4, CONSTANT | {"cooldown_steps": 2}),
            (9, CONSTANT | {"cooldown_steps": 2}),
            "step 4 was 0.005 and would have been 0.01, since its cooldown began after step 2, now after 7",
        ),
        (4, (9, CONSTANT), (3, CONSTANT), "w has done 4 steps, and config.steps is 3; want 4 or more"),
    ],
)
def test_a_run_whose_past_learning_rates_would_change_is_refused_with_the_reason(done, before, now, why):
    with pytest.raises(ConfigError) as raised:
        check(done, before, now)
    assert why in str(raised.value) and "\n" not in str(raised.value)
