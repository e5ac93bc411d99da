"""What a check concludes, and the report."""
