"""One study through the platform itself: start a job of an algorithm there, fetch its outputs, compare them with ours.

This is the only check on the platform itself. It needs gcapi, in a separate environment
(``requirements/tryout.lock``: its httpx is older than what the rest may need), and a token of a user who may use the
algorithm, in ``GRAND_CHALLENGE_TOKEN``::

    python3.11 -m venv build/tryout && requirements/install.sh build/tryout/bin/python tryout.lock
    PYTHONPATH=.:test build/tryout/bin/python -m conformance.tryout --algorithm SLUG --card CARD --study ARCHIVE
        --local OUTPUT

ARCHIVE holds one study; OUTPUT is what ``python -m algorithm`` wrote for it here. Images are uploaded under their names
and stay on the platform: **upload nothing that must not leave your institution**.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conformance.checks.output_rules import require_same
from conformance.results.verdicts import Broken
from contract.archive.studies import Study, find_studies
from contract.card import Card, load_card
from contract.errors import OncoduetError, exit_status
from contract.process.terminal import say
from contract.text import one_line

TOKEN = "GRAND_CHALLENGE_TOKEN"
PLATFORM = "https://grand-challenge.org/api/v1/"
TOLERANCE = 1e-3
"""Tolerance between a CPU here and a GPU there."""

_OVER = {"Succeeded", "Failed", "Cancelled"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Try one study; exit code 0: same outputs, 1: different outputs, 2: wrong usage, 3: wrong input."""
    options = _parser().parse_args(arguments)
    differ = False

    def command() -> None:
        nonlocal differ
        token = os.environ.get(TOKEN)
        if not token:
            raise OncoduetError(
                TOKEN,
                "not set: uploads need an API token of the platform (in your profile there); "
                "./test.sh conformance needs none",
            )
        card = load_card(options.card)
        study = _only_study(options.study, card)
        if not options.local.is_dir():
            raise OncoduetError(options.local, "folder not found")
        with tempfile.TemporaryDirectory() as folder:
            client = _client(token, options.url)
            _fetch(client, options.algorithm, card, study, Path(folder), poll_s=options.poll_s, limit_s=options.limit_s)
            try:
                print(f"the same: {require_same(options.local, Path(folder), card, tolerance=TOLERANCE)}")
            except Broken as found:
                differ = True
                say(f"error: {options.local}: the platform's outputs differ: {one_line(str(found))}")

    return exit_status(command) or int(differ)


def _only_study(archive: Path, card: Card) -> Study:
    studies = find_studies(archive, card, labels_required=False)
    if len(studies) != 1:
        raise OncoduetError(archive, expected="one study", found=len(studies))
    return studies[0]


def _client(token: str, url: str) -> Any:
    try:
        import gcapi  # noqa: PLC0415
    except ImportError:
        raise OncoduetError(
            "gcapi", "not installed; install requirements/tryout.lock in a separate environment"
        ) from None
    try:
        return gcapi.Client(token=token, base_url=url)
    except Exception as error:
        raise OncoduetError(url, f"platform's API does not answer: {one_line(str(error))}") from None


def _fetch(
    client: Any, algorithm: str, card: Card, study: Study, folder: Path, *, poll_s: float, limit_s: float
) -> None:
    """Start the job, wait for its end, and download its outputs.

    Raises ``OncoduetError``: the platform does not take the job, or the job does not succeed in time.
    """
    from gcapi import SocketValueSpec  # noqa: PLC0415

    inputs = [
        SocketValueSpec(socket_slug=channel.socket.slug, files=[study.channels[channel.name]])
        for channel in card.channels
    ]
    try:
        job = client.start_algorithm_job(algorithm_slug=algorithm, inputs=inputs)
        print(f"job {job.pk}: {job.status}", flush=True)
        begun = time.monotonic()
        found = client.algorithm_jobs.detail(pk=job.pk)
        while found.status not in _OVER:
            if time.monotonic() - begun > limit_s:
                raise OncoduetError(f"job {job.pk}", f"did not end within {limit_s:g} s ({found.status})")
            time.sleep(poll_s)
            found = client.algorithm_jobs.detail(pk=job.pk)
        if found.status != "Succeeded":
            raise OncoduetError(f"job {job.pk}", expected="Succeeded", found=f"{found.status}; see {found.url}")
        print(f"job {job.pk}: {found.status}, took {found.exec_duration or found.invoke_duration}", flush=True)
        for value in found.outputs:
            if value.interface.slug in (card.detection_map.slug, card.likelihood.slug):
                client.download_socket_value(value, output_directory=folder)
    except OncoduetError:
        raise
    except Exception as error:  # gcapi raises what its parts raise: httpx, ValueError, its own
        said = one_line(str(error)) or type(error).__name__
        raise OncoduetError(algorithm, f"the platform did not run it: {said}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m conformance.tryout", description=__doc__.partition("\n")[0])
    parser.add_argument("--algorithm", required=True, metavar="SLUG", help="slug of the algorithm on the platform")
    parser.add_argument("--card", required=True, help="name or path of the card")
    parser.add_argument("--study", type=Path, required=True, help="an archive with one study")
    parser.add_argument("--local", type=Path, required=True, help="outputs of a local run of the study")
    parser.add_argument("--url", default=PLATFORM, help="address of the platform (default: %(default)s)")
    parser.add_argument("--poll-s", type=float, default=10.0, help="seconds between two requests (default: 10)")
    parser.add_argument("--limit-s", type=float, default=3600.0, help="longest wait in seconds (default: 3600)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
