"""The Hugging Face world: load, save, processors, model folders, model card, publishing."""
