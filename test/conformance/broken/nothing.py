"""Breaks nothing: this image has to pass, so that refusing the others means something."""
