"""Batches of patches from studies that are kept in the device's memory."""
