"""What images are tried on: synthetic studies, and submissions with a known truth."""
