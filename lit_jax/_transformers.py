"""The one door to `transformers`: imports it without its advice to install torch, which lit_jax does not need."""

import os

_ADVICE = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
_before = os.environ.get(_ADVICE)
os.environ[_ADVICE] = "1"  # Read at import; put back below, since later advice is the user's to hear.
try:
    import transformers
finally:
    if _before is None:
        del os.environ[_ADVICE]
    else:
        os.environ[_ADVICE] = _before

__all__ = ["transformers"]
