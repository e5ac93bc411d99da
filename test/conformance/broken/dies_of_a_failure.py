"""Exits when a study fails."""

import os

import honest


def dying(handler):
    try:
        honest.predict(handler.threshold)
    except (honest.RefusedError, OSError, ValueError, RuntimeError) as error:
        print(f"error: {error}", file=honest.sys.stderr, flush=True)
        handler.answer(500)
        handler.wfile.flush()
        os._exit(1)
    handler.answer(201)


honest.Handler.do_POST = dying
