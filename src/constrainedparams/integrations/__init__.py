"""Bridges to other systems: one file for each."""
