"""Returns 200 instead of 201 for a finished case."""

import honest

honest.Handler.success = 200
