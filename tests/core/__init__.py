"""The cores: bytes in a mapped file, the same on both."""
