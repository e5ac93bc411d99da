"""Boxes around lesions: anchors, network, decoding, clustering and detection maps of ``retina-unet``.

The method is nnDetection's Retina U-Net (Jaeger et al. 2020, Baumgartner et al. 2021); the code is our own, on nnU-Net
v2's plans, and its figures are never reported as nnDetection's.
"""
