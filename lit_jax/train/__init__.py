"""The training loop, the step, state, optimiser, caches and monitors."""
