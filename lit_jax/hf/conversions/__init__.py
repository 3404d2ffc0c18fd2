"""Models of other projects, read as if transformers had written them."""
