"""A Hugging Face Space for an exported model."""
