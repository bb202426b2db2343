"""What a crash may have left."""
