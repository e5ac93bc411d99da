"""A bundle's networks on one study: from images to the probability on the study's grid."""
