"""Embeds a folder of pictures with Apache Beam: python docs/examples/embed_with_beam.py MODEL PICTURES OUTPUT

PICTURES is a pattern such as gs://BUCKET/web/*.jpg. OUTPUT is the prefix of the names of the text files that are
written, with one line of JSON for each picture. Options of a runner may follow, such as --runner DataflowRunner.
"""

import json
import sys
from collections.abc import Iterator

import apache_beam as beam
import numpy as np
from apache_beam.io import fileio
from apache_beam.options.pipeline_options import PipelineOptions

import lit_jax


class EmbedPictures(beam.DoFn):
    """Batches of (name, bytes of a picture) -> (name, embedding); an embedding is a unit vector in float32."""

    def __init__(self, model: str) -> None:
        self._name = model

    def setup(self) -> None:
        """Opens the model once in each worker."""
        self._model = lit_jax.Embedder(self._name)

    def process(self, batch: list[tuple[str, bytes]]) -> Iterator[tuple[str, np.ndarray]]:
        """Embeds one batch."""
        names, files = zip(*batch, strict=True)
        embedded = self._model({"image": files})["image_embedding"]
        yield from zip(names, embedded, strict=True)


def embed(model: str, pictures: str, output: str, *options: str) -> None:
    """Writes the embeddings of all files that match the pattern `pictures`."""
    with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
        _ = (
            pipeline
            | fileio.MatchFiles(pictures)
            | fileio.ReadMatches()
            | beam.Map(lambda file: (file.metadata.path, file.read()))
            | beam.BatchElements(min_batch_size=16, max_batch_size=64)
            | beam.ParDo(EmbedPictures(model))
            | beam.Map(lambda row: json.dumps({"path": row[0], "embedding": row[1].tolist()}))
            | beam.io.WriteToText(output, file_name_suffix=".jsonl")
        )


if __name__ == "__main__":
    embed(*sys.argv[1:])
