"""Model card, golden tensors, verification, export and push: each in its own module."""
