"""Files of weights: one module for each format."""
