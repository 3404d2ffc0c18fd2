"""Sources of pairs: one file for each form in which they are stored."""
