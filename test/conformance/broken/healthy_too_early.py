"""Reports to be healthy before its model is loaded."""

import honest


def later(handler):
    try:
        honest.predict(honest.load())
    except (honest.RefusedError, OSError, ValueError) as error:
        print(f"error: {error}", file=honest.sys.stderr, flush=True)
        handler.answer(500)
    else:
        handler.answer(201)


def serve():
    honest.http.server.HTTPServer(("0.0.0.0", 4743), honest.Handler).serve_forever()


honest.Handler.do_POST = later
honest.serve = serve
