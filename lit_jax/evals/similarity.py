"""How alike two feature spaces are, before anything is trained between them."""

import numpy as np
from jaxtyping import Float, Int


def mutual_knn(a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "N K"], neighbours: int = 10) -> float:
    """The share of a row's nearest neighbours that both spaces agree on, averaged over the rows: 0 to 1.

    Row i of `a` belongs to row i of `b`; nearest means the largest cosine (Huh et al., arXiv:2405.07987). Two unrelated
    spaces score `neighbours` / (N - 1) on average. Raises ValueError for fewer than two rows.
    """
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"{len(a)} and {len(b)} rows; wanted as many of both, and two or more")
    return shared(nearest(a, neighbours), nearest(b, neighbours))


def nearest(x: Float[np.ndarray, "N D"], neighbours: int = 10) -> Int[np.ndarray, "N k"]:
    """The other rows nearest to each row by cosine, in any order: `neighbours` of them, or all if there are fewer."""
    near, count = _unit(x) @ _unit(x).T, min(neighbours, len(x) - 1)
    np.fill_diagonal(near, -np.inf)
    return np.argpartition(-near, count - 1, axis=1)[:, :count]


def shared(a: Int[np.ndarray, "N k"], b: Int[np.ndarray, "N k"]) -> float:
    """`mutual_knn` of two spaces, from what `nearest` returns for each."""
    return float((a[:, :, None] == b[:, None]).any(2).mean())


def cka(a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "N K"]) -> float:
    """Linear centred kernel alignment, 0 to 1, which no rotation or scaling of a space changes (arXiv:1905.00414)."""
    x, y = (np.asarray(side, np.float64) - np.mean(side, axis=0, dtype=np.float64) for side in (a, b))
    norm = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(x.T @ y) ** 2 / norm) if norm else 0.0


def rank_correlation(a: Float[np.ndarray, " N"], b: Float[np.ndarray, " N"]) -> float:
    """Spearman's: 1 for the same order, -1 for the reverse, NaN if one side is constant. Ties share their mean rank."""
    ranks = [_ranks(np.asarray(x, np.float64)) for x in (a, b)]
    centred = [rank - rank.mean() for rank in ranks]
    norm = np.linalg.norm(centred[0]) * np.linalg.norm(centred[1])
    return float(centred[0] @ centred[1] / norm) if norm else float("nan")


def _ranks(values: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    below = (values[None] < values[:, None]).sum(1)
    same = (values[None] == values[:, None]).sum(1)
    return below + (same - 1) / 2


def _unit(x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    x = np.asarray(x, np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float32).tiny)
