"""Text to batches: readers, collators, embedded corpora."""
