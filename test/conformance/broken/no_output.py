"""Ends with 0 and writes nothing."""

import honest

honest.predict = lambda threshold: None
