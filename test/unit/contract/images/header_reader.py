"""A child process: SimpleITK reads the images named on stdin, one JSON line each. It may die or hang."""

import hashlib
import json
import resource
import sys

import SimpleITK as sitk

MOST_BYTES = 4 << 30

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    for name in sys.stdin:
        try:
            image = sitk.ReadImage(name.strip())
        except RuntimeError as error:
            answer = {"refused": str(error).strip().splitlines()[-1]}
        else:
            array = sitk.GetArrayFromImage(image)
            answer = {
                "size": image.GetSize(),
                "spacing": [value.hex() for value in image.GetSpacing()],
                "origin": [value.hex() for value in image.GetOrigin()],
                "direction": [value.hex() for value in image.GetDirection()],
                "type": str(array.dtype),
                "voxels": hashlib.sha256(array.tobytes()).hexdigest(),
            }
        print(json.dumps(answer), flush=True)
