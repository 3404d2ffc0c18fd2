"""From packages of the package index to an exported model and a page about it."""
