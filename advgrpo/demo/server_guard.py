"""Run a server for as long as the process that wants it lives.

Started as a script, with the server's command line as arguments, in a session of its own. Its
standard input is a pipe whose other end the wanting process holds: the pipe ends when that process
closes it or dies, however it dies, and then everything in the session is stopped.
"""

import os
import select
import signal
import subprocess
import sys

_GRACE_SECONDS = 5.0
_LOOK_SECONDS = 0.5


def main(command: list[str]) -> None:
    """Run `command` until it ends or standard input does, then end its whole process group."""
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    # A handler, unlike SIG_IGN, is not handed on to the server.
    signal.signal(signal.SIGTERM, lambda *_: None)
    while server.poll() is None:
        wanted = not select.select([0], [], [], _LOOK_SECONDS)[0] or os.read(0, 1)
        if not wanted:
            os.killpg(0, signal.SIGTERM)
            try:
                server.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                break
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
