"""What a crash may have left: verify it, find what is intact, repair it."""
