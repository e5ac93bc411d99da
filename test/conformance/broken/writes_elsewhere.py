"""Keeps a file beside its code, which belongs to root."""

from pathlib import Path

import honest

predict = honest.predict


def elsewhere(threshold):
    Path("/opt/broken/cache.json").write_text("{}")
    predict(threshold)


honest.predict = elsewhere
