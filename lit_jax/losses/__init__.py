"""Contrastive losses of a sharded batch."""
