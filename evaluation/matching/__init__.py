"""One case: lesions, candidates, and which of them belong together."""
