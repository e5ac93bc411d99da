"""Loads its model when it is asked for its health."""

import time

import honest

do_get = honest.Handler.do_GET


def slow(handler):
    time.sleep(30)
    do_get(handler)


honest.Handler.do_GET = slow
