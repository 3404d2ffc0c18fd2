"""Evaluation: embeddings in, plain numbers out. No model is called here; each file holds one kind of task."""
