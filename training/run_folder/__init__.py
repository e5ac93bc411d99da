"""What a run leaves on disk: its folder, lock, checkpoints, environment and logs."""
