"""The once-per-change engine: registration, freshness, the pullback node."""
