"""`python -m tests.docs.forked SOCKET`: runs commands of tocsin in processes that need not import it first.

Each connection brings the arguments, the directory and the environment as JSON, and the three standard streams as file
descriptors (`SCM_RIGHTS`). A process is forked, which runs `tocsin.cli.main` as the program `tocsin` does. The answer
is its process id, and then its exit status. `CLIENT` is the program that does this in place of `tocsin`.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
import threading
import time
from typing import Final

MOST_BYTES: Final = 1 << 20
CLIENT: Final = """#!{python} -SE
import json, os, signal, socket, sys
line = socket.socket(socket.AF_UNIX)
line.connect({socket!r})
task = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(line, [len(task).to_bytes(4, "big")], [0, 1, 2])
line.sendall(task)
answers = line.makefile("r")
pid = int(answers.readline())
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, _: os.kill(pid, number))
sys.exit(int(answers.readline()))
"""


def _become(task: bytes, streams: list[int]) -> None:
    """Run the command in this process, which ends with it."""
    from tocsin.cli import main

    arguments, directory, environment = json.loads(task)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    # What the streams know of the files that were there before is not true of these.
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    main(arguments)


def _answer(line: socket.socket, pid: int) -> None:
    with line:
        line.sendall(f"{pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        line.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _receive(line: socket.socket) -> tuple[bytes, list[int]]:
    head, streams, _, _ = socket.recv_fds(line, 4, 3)
    task = b""
    while len(task) < min(int.from_bytes(head, "big"), MOST_BYTES):
        task += line.recv(65536)
    return task, list(streams)


def run(path: str) -> None:
    """Serve until this process is ended."""
    import tocsin.cli.root
    import tocsin.console.server
    import tocsin.emulator.run
    import tocsin.service.start
    import tocsin.store.sqlite.opening  # noqa: F401 (all of them: so that no command needs to import them)

    gc.freeze()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(16)
    while True:
        line, _ = listening.accept()
        task, streams = _receive(line)
        pid = os.fork()
        if pid == 0:
            listening.close()
            line.close()
            _become(task, streams)
        for stream in streams:
            os.close(stream)
        threading.Thread(target=_answer, args=(line, pid), daemon=True).start()


if __name__ == "__main__":
    run(sys.argv[1])
