"""Run a program, and kill its process group when the calling process has ended.

nnDetection's programs work for days and start others. A process that is killed cannot end them, and they would
continue, without a parent, on the files and the GPU of the run that is started next. So this script is between the
two: it leads their process group, and holds one end of a pipe whose other end closes with the asking process, however
that ends.

It imports only the standard library, to start at once: ``python -I process_guard.py PIPE PROGRAM …``. Its exit code is
the program's, or 128 plus the number of the signal that ended it.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence


def keep(pipe: int, command: Sequence[str]) -> int:
    """Run a command in this process's group; end the group once the pipe's other end is closed."""

    def watch() -> None:
        os.read(pipe, 1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    code = subprocess.run(command, check=False).returncode
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(keep(int(sys.argv[1]), sys.argv[2:]))
