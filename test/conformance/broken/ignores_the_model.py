"""Has its threshold in the code."""

import honest

honest.load = lambda: 300.0
