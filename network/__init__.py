"""Study → tensors → network → probability: what training and inference both need (torch)."""
