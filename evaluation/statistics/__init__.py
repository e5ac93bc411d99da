"""Whether configurations differ: declarations, tests, intervals, verdict."""
