"""The report's figures: curves, values by run, p-values, forest plot, clinical use, the worst misses."""

import logging

# Where the home is read-only matplotlib falls back on a temporary folder by itself; it need not say so on stderr.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
