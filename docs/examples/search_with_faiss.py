"""Converts an index for FAISS, also one larger than the memory: python search_with_faiss.py INDEX OUTPUT [KIND]

Writes OUTPUT/vectors.faiss and OUTPUT/ids.txt, whose line N is the id of vector N. The index is read one shard at a
time. KIND is given to faiss.index_factory: "Flat" searches exactly; "IVF4096,PQ64" keeps 64 bytes of each vector and
finds most of the nearest ones. Vectors have unit length, so their inner products are the scores of lit_jax.
"""

import itertools
import sys
from pathlib import Path

import faiss
import numpy as np

from lit_jax.inference.index import Index

LEARNT_FROM = 200_000  # How many vectors, from all over the index, the lists and codes are learnt from.


def convert(index: str, output: str, kind: str = "Flat") -> None:
    """Converts the index that `lit-jax embed` wrote into the folder `index`, and writes it to the folder `output`."""
    source, place = Index.open(index), Path(output)
    place.mkdir(parents=True, exist_ok=True)
    found = faiss.index_factory(source.width, kind, faiss.METRIC_INNER_PRODUCT)
    step = -(-source.pictures // LEARNT_FROM)
    if not found.is_trained:
        found.train(np.concatenate([shard.embeddings[::step] for shard in source]))
    with (place / "ids.txt").open("w", encoding="utf-8") as ids:
        for shard in source:
            found.add(np.ascontiguousarray(shard.embeddings, np.float32))
            ids.writelines(f"{name}\n" for name in shard.ids)
    faiss.write_index(found, str(place / "vectors.faiss"))


def search(output: str, query: np.ndarray, top: int = 10) -> list[tuple[str, float]]:
    """The ids and scores of the `top` vectors nearest to `query`, a row of the output of `embedder.texts`."""
    scores, numbers = faiss.read_index(str(Path(output) / "vectors.faiss")).search(query[None], top)
    wanted, names = {*numbers[0].tolist()}, {}
    with (Path(output) / "ids.txt").open(encoding="utf-8") as ids:
        for number, name in enumerate(itertools.islice(ids, max(wanted) + 1)):
            if number in wanted:
                names[number] = name.rstrip("\n")
    return [
        (names[n], float(s)) for n, s in zip(numbers[0].tolist(), scores[0].tolist(), strict=True) if n >= 0
    ]


if __name__ == "__main__":
    convert(*sys.argv[1:])
