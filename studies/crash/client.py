"""Replacement of the Python program: it requests a fork of the warm interpreter and follows it.

It passes its arguments, environment and standard files to `studies.crash.warm`, forwards signals,
and exits with the fork's status. If it is killed, so is the fork. It imports the standard library
alone, because the job starts it a dozen times.
"""

import json
import os
import signal
import socket
import struct
import sys


def main(address: str, arguments: list[str]) -> None:
    """Run a Python command line in a fork of the warm interpreter."""
    request = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}  # noqa: PTH109 - pathlib takes ten milliseconds to load
    payload = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        socket.send_fds(server, [struct.pack("!I", len(payload))], [0, 1, 2])
        server.sendall(payload)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda n, _frame: server.sendall(bytes([n])))
        answer = server.recv(4)
    end = struct.unpack("!i", answer)[0] if len(answer) == 4 else 255
    if end < 0:
        # Die of the same signal, so that the waiting parent sees it.
        signal.signal(-end, signal.SIG_DFL) if -end != signal.SIGKILL else None
        os.kill(os.getpid(), -end)
    os._exit(end)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
