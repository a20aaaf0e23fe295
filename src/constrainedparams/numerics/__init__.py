"""Functions of tensors with derivatives that can be trusted; no class of a set, no nn."""
