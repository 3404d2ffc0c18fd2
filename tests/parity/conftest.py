"""PyTorch models with every leaf randomised, and a comparison that shows the layer at which two models differ."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity tests compare with PyTorch; install lit_jax[parity]")


def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.parity)


def randomise(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Marian's positions are computed.
            if not name.endswith("embed_positions.weight") or parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        for name, buffer in model.named_buffers():
            # Statistics of batch norms start at 0 and 1; variances stay positive.
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(torch.rand(buffer.shape, generator=generator))
    return model.eval()


def assert_same_layers(ours: dict, theirs: dict, scale: float = 1e-5) -> None:
    """Compares named arrays in order, to `scale` times the largest value; a failure lists the error of each."""
    assert ours.keys() == theirs.keys()
    rows, good = [], True
    for name, want in theirs.items():
        got, want = np.asarray(ours[name]), np.asarray(want.detach() if hasattr(want, "detach") else want)
        if got.shape != want.shape:
            rows.append(f"{name}: shape {got.shape} where PyTorch has {want.shape}")
            good = False
            continue
        error, bound = float(np.abs(got - want).max()), scale * max(1.0, float(np.abs(want).max()))
        rows.append(
            f"{name}: largest difference {error:.2e}, allowed {bound:.2e}{'' if error <= bound else '  <---'}"
        )
        good &= error <= bound
    assert good, "\n" + "\n".join(rows)
