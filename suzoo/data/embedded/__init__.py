"""Small generated corpora, deterministic, so that every script runs without a network. Synthetic."""
