"""What all three containers agree on: cards, archives, sockets, volumes, files and their schemas.

Knows no torch, no metric and none of its users; import-linter holds the directions (``pyproject.toml``).
"""
