"""How a slot hangs on an nn.Module: generated classes, registration, checkpoints, sharing."""
