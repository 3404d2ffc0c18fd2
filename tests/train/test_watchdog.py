import subprocess
import sys

CODE = """
import time
from lit_jax.train.watchdog import Watchdog

watchdog = Watchdog({limit}, patience=0.4)
for _ in range(5):
    time.sleep(0.01)
    watchdog.beat()


def stuck_in_a_step():
    time.sleep(2)


{last}
print("went on")
watchdog.close()
"""


def run(limit, last="stuck_in_a_step()"):
    return subprocess.run(
        [sys.executable, "-c", CODE.format(limit=limit, last=last)],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_all_stacks_are_shown_once_if_a_step_takes_far_longer_than_before():
    done = run(limit=0)
    assert done.returncode == 0 and done.stdout == "went on\n"
    assert done.stderr.count("in stuck_in_a_step") == 1


def test_a_compilation_after_an_evaluation_is_not_compared_with_its_batches():
    done = run(limit=0, last="\nwatchdog.turn()\nstuck_in_a_step()")
    assert done.returncode == 0 and done.stdout == "went on\n" and done.stderr == ""


def test_a_step_that_never_ends_ends_the_run():
    done = run(limit=1)
    assert done.returncode == 6 and done.stdout == ""
    assert "lit-jax: nothing was done for" in done.stderr and done.stderr.count("in stuck_in_a_step") == 2
