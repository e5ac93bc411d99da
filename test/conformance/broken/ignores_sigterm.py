"""Ignores SIGTERM; only a warning, since the platform kills it."""

import signal

import honest

serve = honest.serve


def deaf():
    signal.signal = lambda *_: None
    serve()


honest.serve = deaf
