"""Writes .nii.gz, which the platform does not import."""

import honest

save = honest.save
honest.save = lambda image, path: save(image, path.replace(".mha", ".nii.gz"))
