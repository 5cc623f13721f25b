"""Runs a command, and kills it with all its processes as soon as standard input closes.

    python _guard.py COMMAND...      standard input: a pipe that nobody writes to

The pipe closes when the process at its other end closes it or ends, also where that was killed and could clean up
nothing: a stage must not train on in secret while the next run starts it again. The command is waited for even then:
DVC takes its locks for held as long as a dead process stands in the process table. Imports nothing but the standard
library, to start quickly.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading


def _kill_when_input_closes(group: int) -> None:
    os.read(0, 1)  # not through sys.stdin, whose lock would be held when the interpreter ends
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    with subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True) as process:
        threading.Thread(target=_kill_when_input_closes, args=(process.pid,), daemon=True).start()
    # A command that was killed has a negative code here; a shell would say 128 and the signal.
    sys.exit(process.returncode if process.returncode >= 0 else 128 - process.returncode)
