"""nnU-Net's augmentation on batches, with explicit seeds."""
