"""A trained model at work: embed, classify, search."""
