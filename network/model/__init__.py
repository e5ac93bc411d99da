"""A network: its plans, its architecture, its weights."""
