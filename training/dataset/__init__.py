"""A prepared dataset: where its studies come from, how nnU-Net plans it, what it keeps of lesions."""
