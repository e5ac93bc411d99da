"""Whether two configurations differ: permutation tests, bootstrap, verdict."""
