"""Finds the model from /input, as if that were a folder of the root."""

from pathlib import Path

import honest

honest.MODEL = Path("/input/../opt/ml/model")
