"""Stopping on request: SIGTERM, SIGUSR1, SIGUSR2 and the end of a time budget mean "save and stop". No torch: a job
knows this before it imports anything."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Stopped(BaseException):
    """The stage was asked to stop and has saved what it needs to go on."""


class _State:
    requested = False
    awaited = False  # a loop will look at `requested`


def listen(seconds: float | None = None) -> set[signal.Signals]:
    """From now on a signal, or the end of so many seconds, means: save and stop. Outside a loop that can save there is
    nothing to wait for. Returns the set in which signals are kept as they come; SIGALRM: the seconds are over."""
    _State.requested = _State.awaited = False
    came: set[signal.Signals] = set()

    def handle(number: int, frame: object) -> None:
        came.add(signal.Signals(number))
        _State.requested = True
        if not _State.awaited:
            raise Stopped

    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):
        signal.signal(number, handle)
    if seconds is not None:
        signal.setitimer(signal.ITIMER_REAL, seconds)
    return came


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
