"""Redirects /health."""

import honest


def elsewhere(handler):
    handler.send_response(302)
    handler.send_header("Location", "/healthy")
    handler.end_headers()


honest.Handler.do_GET = elsewhere
