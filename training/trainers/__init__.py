"""nnU-Net's trainer and what trainers share: steps in turn, losses, state."""
