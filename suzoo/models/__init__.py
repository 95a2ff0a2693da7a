"""Models: the hub-safe zone. Files here travel with the weights, see CONTRIBUTING.md."""
