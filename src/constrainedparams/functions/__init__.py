"""The user's f in its three forms: a set, an nn.Module, a callable."""
