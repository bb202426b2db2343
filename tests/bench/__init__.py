"""The benchmark's programs."""
