"""The package tensorflow_datasets, imported whole or refused in a sentence."""

import logging
from functools import cache
from importlib import import_module
from typing import Any

from lit_jax.utils.errors import ConfigError, first_line


@cache
def tfds() -> Any:
    """The package. Raises ConfigError with the reason if a part of it cannot be imported.

    Then the package by itself logs a traceback and goes on without its parts: for example if protobuf is older than the
    protobuf that its metadata were compiled by, which nothing that it requires of pip excludes.
    """
    log = logging.getLogger("absl")
    was, log.disabled = log.disabled, True
    try:
        import_module("tensorflow_datasets.public_api")
    except Exception as e:
        raise ConfigError(
            f"tensorflow_datasets cannot be imported: {first_line(e).rstrip('.')}; "
            "pip install --upgrade protobuf tensorflow-datasets tensorflow-metadata"
        ) from e
    finally:
        log.disabled = was
    return import_module("tensorflow_datasets")
