"""Importing torch and transformers costs seconds; a stage at micro scale costs not much more. So one process
imports them once and forks a fresh child for each artefact.

Protocol: a folder a line on standard input; `{"folder": ..., "code": ...}` a line on standard output when its child
has ended. At end of input the children are told to save and stop. This process never starts a thread and never
computes.
"""

import ctypes
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO

from pipeline import job, stopping

PR_SET_PDEATHSIG = 1
GRACE_SECONDS = 60
QUIET = {  # of a process that makes artefacts, wherever it runs
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def serve(stages: Iterable[str]) -> None:
    for name in stages:
        with suppress(Exception):  # the stage's own job meets the same error, and records it
            importlib.import_module(name)
    importlib.import_module("pandas")  # pyarrow imports it at its first conversion: once here, not in every child
    gc.collect()
    gc.freeze()  # the children share these pages
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: None)
    children: dict[int, str] = {}
    pending = b""
    while True:
        readable, _, _ = select.select([0, wake_read], [], [])
        if wake_read in readable and signal.SIGTERM in os.read(wake_read, 4096):
            break
        if 0 in readable:
            received = os.read(0, 65536)
            if not received:
                break
            *lines, pending = (pending + received).split(b"\n")
            for line in lines:
                folder = line.decode()
                children[start(folder)] = folder
        report(children, os.WNOHANG)
    end(children)


def start(folder: str) -> int:
    """Forks the child that makes this artefact."""
    server = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # until the child has a handler of its own
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        return pid
    try:
        signal.set_wakeup_fd(-1)
        stopping.listen()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if os.getppid() != server:
            os._exit(job.STOPPED)
        log = Path(folder, "log", "console.log")
        redirect(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644))
        code = job.run(Path(folder))
        sys.stdout.flush()
        sys.stderr.flush()
    except stopping.Stopped:
        os._exit(job.STOPPED)
    except BaseException:  # nothing of the server may run on in a child
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(job.FAILED)
    os._exit(code)


def redirect(log: int) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)


def report(children: dict[int, str], flags: int) -> None:
    while children:
        pid, status = os.waitpid(-1, flags)
        if pid == 0:
            return
        code = os.waitstatus_to_exitcode(status)
        answer = json.dumps({"folder": children.pop(pid), "code": code}) + "\n"
        os.write(1, answer.encode())  # in one piece, so that nobody ever reads half of it


def end(children: dict[int, str]) -> None:
    """Nobody asks any more: the children save and stop."""
    for pid in children:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while children and time.monotonic() < deadline:
        try:
            report(children, os.WNOHANG)
        except BrokenPipeError:  # the asker is gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        time.sleep(0.05)
    for pid in children:
        os.kill(pid, signal.SIGKILL)


class Server:
    """The asker's side."""

    def __init__(self, stages: Iterable[str]):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.forkserver", *sorted(stages)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C in the terminal is ours to pass on
            env={**os.environ, **QUIET},
        )

    def start(self, folder: Path) -> None:
        """EOFError if the server itself died."""
        pipe = stream(self.process.stdin)
        try:
            pipe.write(f"{folder}\n".encode())
            pipe.flush()
        except BrokenPipeError as e:
            raise EOFError from e

    def ended(self, wait: float) -> list[tuple[Path, int]]:
        """Children that have ended within the next `wait` seconds. EOFError if the server itself died."""
        pipe = stream(self.process.stdout)
        ready, _, _ = select.select([pipe], [], [], wait)
        if not ready:
            return []
        text = b""
        while not text.endswith(b"\n"):
            more = os.read(pipe.fileno(), 65536)
            if not more:
                raise EOFError
            text += more
        return read_answers(text)

    def close(self) -> list[tuple[Path, int]]:
        """Tells the children to save and stop; returns how each ended."""
        with suppress(BrokenPipeError):  # it died; what it could not be told does not matter any more
            stream(self.process.stdin).close()
        with stream(self.process.stdout) as pipe:
            text = pipe.read()
        self.process.wait()
        return read_answers(text)


def read_answers(text: bytes) -> list[tuple[Path, int]]:
    """Whole lines only: a server that died may have left half of one."""
    answers = [json.loads(line) for line in text.split(b"\n")[:-1]]
    return [(Path(a["folder"]), a["code"]) for a in answers]


def stream(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None, "opened with PIPE"
    return pipe


if __name__ == "__main__":
    serve(sys.argv[1:])
