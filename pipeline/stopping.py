"""Stopping on request: SIGTERM and SIGUSR2 mean "save and stop". No torch: a job knows this before it imports
anything."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Stopped(BaseException):
    """The stage was asked to stop and has saved what it needs to go on."""


class _State:
    requested = False
    awaited = False  # a loop will look at `requested`


def listen() -> None:
    """SIGTERM and SIGUSR2 mean: save and stop. Outside a loop that can save there is nothing to wait for."""
    _State.requested = _State.awaited = False

    def handle(number: int, frame: object) -> None:
        _State.requested = True
        if not _State.awaited:
            raise Stopped

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGUSR2, handle)


def request() -> None:
    _State.requested = True


def requested() -> bool:
    return _State.requested


@contextmanager
def stops_between_steps() -> Iterator[None]:
    _State.awaited = True
    try:
        yield
    finally:
        _State.awaited = False
