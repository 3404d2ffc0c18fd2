"""Pictures and captions into arrays."""
