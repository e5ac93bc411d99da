"""Starts hundreds of workers."""

import os
import signal

import honest

predict = honest.predict


def crowded(threshold):
    workers = []
    try:
        for _ in range(600):
            worker = os.fork()
            if worker == 0:
                signal.pause()
            workers.append(worker)
    finally:
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
    predict(threshold)


honest.predict = crowded
