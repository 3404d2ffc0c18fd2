"""The whole way, from packages of the index to an exported model."""
