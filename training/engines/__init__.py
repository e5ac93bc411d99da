"""What trains a network: one module per framework."""
