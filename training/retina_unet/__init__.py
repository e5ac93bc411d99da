"""Retina U-Net after nnDetection: anchors, matching, loss, trainer."""
