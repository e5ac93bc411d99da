"""What all packages share: cards, archives, images, files, sockets, schemas and errors.

Knows no torch, no metric and none of its users; import-linter holds the directions (``pyproject.toml``).
"""
