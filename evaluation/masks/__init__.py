"""Voxels that are not zero: sparse images and their connected components."""
