"""Configurations compared with human readers."""
