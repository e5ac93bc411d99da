"""A run on its fold's validation studies: prediction, scores, choice of the checkpoint."""
