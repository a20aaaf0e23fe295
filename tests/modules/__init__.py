"""Constrained weights in the modules people have: training, copies, containers."""
