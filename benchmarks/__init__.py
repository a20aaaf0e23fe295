"""Programs that measure; each prints a page and keeps its numbers as JSON."""
