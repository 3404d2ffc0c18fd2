"""The package tensorflow_datasets, imported whole or refused in a sentence."""

import logging
from functools import cache
from typing import Any

from lit_jax.utils.errors import ConfigError, first_line


@cache
def tfds() -> Any:
    """The package. Raises ConfigError with the reason if a part of it cannot be imported.

    The package itself only logs a traceback in that case, and its parts are missing. One cause is a protobuf that is
    older than the one that tensorflow-metadata was compiled with, which that package's requirements permit.
    """
    log = logging.getLogger("absl")
    was, log.disabled = log.disabled, True
    try:
        import tensorflow_datasets.public_api
    except Exception as e:
        raise ConfigError(
            f"tensorflow_datasets cannot be imported: {first_line(e).rstrip('.')}; "
            "pip install --upgrade protobuf tensorflow-datasets tensorflow-metadata"
        ) from e
    finally:
        log.disabled = was
    return tensorflow_datasets
