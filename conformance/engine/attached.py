"""A container's streams, byte for byte, while it runs."""

import subprocess

from conformance.engine.container_engine import ContainerEngine, Kept


class Attached:
    """The streams of a container, byte for byte; the engine's own log would replace bytes that are not UTF-8."""

    def __init__(self, engine: ContainerEngine, container: str) -> None:
        self.engine, self.container = engine, container
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Attached":
        """Start the container."""
        self.process = self.engine.start("start", "--attach", self.container)
        assert self.process.stdout is not None and self.process.stderr is not None
        self._streams = Kept(self.process.stdout), Kept(self.process.stderr)
        return self

    def __enter__(self) -> "Attached":
        return self.start()

    def __exit__(self, *error: object) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def status(self) -> int | None:
        """The exit code; None while it runs."""
        assert self.process is not None
        return self.process.poll()

    def wait(self, seconds: float) -> int | None:
        """The exit code, or None if it is still running after this time."""
        assert self.process is not None
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def stdout(self) -> bytes:
        """Stdout until now."""
        return self._said(0)

    def stderr(self) -> bytes:
        """Stderr until now."""
        return self._said(1)

    def _said(self, number: int) -> bytes:
        stream = self._streams[number]
        return stream.so_far() if self.status() is None else stream.whole()
