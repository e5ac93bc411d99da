"""What a run is worth on its fold: prediction, scores, choice of the checkpoint."""
