"""Training from memory: the preprocessed studies lie on the device, and patches are cut and augmented there.

The rules and their numbers are nnU-Net's (``recipe`` reads them from its transforms); the code that applies them to a
whole batch at once, from random numbers of its own, is ours.
"""
