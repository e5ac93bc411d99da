"""Breaks nothing: this image has to pass, or the suite would prove nothing by refusing the others."""
