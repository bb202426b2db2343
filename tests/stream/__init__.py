"""One open stream."""
