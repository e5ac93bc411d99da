"""Procedural studies with known truth: the embedded data set of the demo and the tests. Knows ``contract`` alone."""
