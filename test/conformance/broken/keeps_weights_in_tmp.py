"""Has its model in /tmp, which is empty on the platform."""

from pathlib import Path

import honest

honest.MODEL = Path("/tmp/weights")
