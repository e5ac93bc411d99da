"""Images: grids and voxels, and the strict readers of MetaImage and NIfTI."""
