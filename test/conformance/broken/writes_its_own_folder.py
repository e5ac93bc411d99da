"""Keeps a file in a folder that its user owns: the platform allows it, a read-only root does not."""

from pathlib import Path

import honest

predict = honest.predict


def elsewhere(threshold):
    Path("/opt/own/cache.json").write_text("{}")
    predict(threshold)


honest.predict = elsewhere
