"""The once-per-change engine: the slot, its freshness, the pullback node."""
