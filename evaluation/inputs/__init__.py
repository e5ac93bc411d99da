"""Truth and predictions, and which of their files belong to which case."""
