"""Counts the steps of a run whose loss or gradient was not finite, and ends a run that has too many."""

import logging
from collections import deque

import optax

from lit_jax.utils.errors import NonFiniteError

log = logging.getLogger(__name__)

IN_A_ROW = 10
WINDOW, SHARE = 1_000, 0.01


class NonFiniteGuard:
    """Counts the steps that changed nothing because their loss or a gradient was not finite."""

    def __init__(self) -> None:
        self.total = 0
        self._row = 0
        self._window: deque[bool] = deque(maxlen=WINDOW)

    def add(self, step: int, skipped: bool) -> None:
        """Counts a step. Raises NonFiniteError after 10 skipped steps in a row, or for more than 10 of 1,000."""
        self._window.append(skipped)
        self._row = self._row + 1 if skipped else 0
        if skipped:
            self.total += 1
            log.warning(
                "step %d is skipped: its loss or a gradient is not finite (%d so far)", step, self.total
            )
        reason = ""
        if self._row >= IN_A_ROW:
            reason = f"the last {self._row} steps had a loss or gradient that is not finite, and were skipped"
        elif (many := sum(self._window)) > SHARE * WINDOW:
            reason = f"{many} of the last {len(self._window)} steps had a loss or gradient that is not finite"
        if reason:
            raise _error(step, reason)


def check_learnt(opt: optax.OptState, steps: int) -> None:
    """Raises NonFiniteError if each of a run's `steps`, all of which `opt` has seen, was skipped.

    They can be too few for a guard, and the run may have been resumed between them.
    """
    counts = [int(count) for _, count in optax.tree.get_all_with_path(opt, "count")]
    if counts and not any(counts):
        raise _error(
            steps,
            f"each step of the run ({steps}) had a loss or gradient that is not finite, and was skipped",
        )


def _error(step: int, reason: str) -> NonFiniteError:
    return NonFiniteError(
        f"step {step}: {reason}; nothing of it was saved: lower optim.peak_lr, "
        "or set model.max_logit_scale or optim.clip_norm"
    )
