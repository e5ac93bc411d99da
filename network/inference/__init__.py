"""The probability of a whole study from networks that see patches, in the memory that there is."""
