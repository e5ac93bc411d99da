"""A study's files on the study grid: read, checked, placed, and for two stages the region around an organ."""
