"""From a path to batches of pixels and labels."""
