"""Asks a licence server before it starts."""

import socket

import honest

predict = honest.predict


def licensed(threshold):
    socket.create_connection(("192.0.2.1", 443), timeout=1).close()
    predict(threshold)


honest.predict = licensed
