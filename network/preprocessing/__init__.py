"""From the study grid to the network's, and back: nnU-Net's preprocessing, with resampling slab by slab."""
