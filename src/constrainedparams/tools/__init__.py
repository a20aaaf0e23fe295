"""What is done with constrained models, on top of the engine."""
