"""Files of weights, one format a file."""
