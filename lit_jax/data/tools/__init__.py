"""Programs over data sets: prepare, summary, contact sheet."""
