"""Configurations compared with each other: every declared pair, and summaries of their runs."""
