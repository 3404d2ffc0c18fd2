"""From packages on the package index to an exported model and a page about it."""
