"""One stream: create it, write it, read it, query it."""
