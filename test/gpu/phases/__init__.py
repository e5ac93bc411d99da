"""One module per phase: ``measure`` yields its rows."""
