"""Embeds a folder of pictures with Ray Data: python docs/examples/embed_with_ray.py MODEL PICTURES OUTPUT

Each actor opens the model once. On a cluster with GPUs, add num_gpus=1 to map_batches. The output is parquet, with the
columns path and image_embedding.
"""

import sys

import ray

import lit_jax


def embed(model: str, pictures: str, output: str, actors: int = 1) -> None:
    """Writes the embeddings of all files of the folder `pictures` into the folder `output`."""
    data = ray.data.read_binary_files(pictures, include_paths=True)
    embedded = data.map_batches(
        lit_jax.Embedder, fn_constructor_args=(model,), batch_size=64, concurrency=actors
    )
    embedded.drop_columns(["bytes"]).write_parquet(output)


if __name__ == "__main__":
    embed(*sys.argv[1:])
