"""Procedural studies with known truth: the data set of the demo and the tests. Imports ``contract`` only."""
