"""What a newcomer does in the first ten minutes, mistakes included."""
