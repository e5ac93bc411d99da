"""Writes the map with (z, y, x) taken for (x, y, z)."""

import honest
import SimpleITK as sitk


def exchanged(array, reference):
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0).copy())
    image.SetSpacing(reference.GetSpacing())
    image.SetOrigin(reference.GetOrigin())
    image.SetDirection(reference.GetDirection())
    honest.save(image, "images/cspca-detection-map/map.mha")


honest.write_map = exchanged
