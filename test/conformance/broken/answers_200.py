"""Answers 200 to a case that is done."""

import honest

honest.Handler.success = 200
