"""How many runs and cases a comparison needs, and whether it may end early."""
