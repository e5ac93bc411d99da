"""The numbers of one run, and what of them may be shown."""
