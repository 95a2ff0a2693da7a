"""Tokens out of a model, beyond generate()."""
