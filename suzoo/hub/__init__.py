"""Model card, golden tensors, verification, export and push."""
