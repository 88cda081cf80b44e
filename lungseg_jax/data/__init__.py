"""From records on disk to batches for a step."""
