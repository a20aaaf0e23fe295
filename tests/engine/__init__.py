"""Tests of the engine against the uncached model: f evaluated inline at every read."""
