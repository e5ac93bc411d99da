"""Writes the map with spacing 1 and the origin at 0."""

import honest
import SimpleITK as sitk

honest.write_map = lambda array, reference: honest.save(
    sitk.GetImageFromArray(array), "images/cspca-detection-map/map.mha"
)
