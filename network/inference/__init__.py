"""The probability of a whole study from networks that see patches, within the available memory."""
