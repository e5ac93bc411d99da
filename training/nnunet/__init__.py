"""nnU-Net's trainer and what trainers share: losses and process state."""
