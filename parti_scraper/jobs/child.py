"""The process of a crawl that a worker has started: it ends with its worker, and with the worker's heartbeat.

Run as `python -m parti_scraper.jobs.child PID crawl SPIDER …`. The worker writes a byte to its standard input whenever
the database has taken a heartbeat.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading

from parti_scraper.__main__ import main

# Seconds without a heartbeat after which the job is about to become another worker's.
SILENCE = 60
# Seconds that a crawl has to end in, once it was told to.
PATIENCE = 15
# Of Linux: which signal a process gets when the one that has started it is dead.
_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """Have this process killed when the one that has started it dies; elsewhere than on Linux `watch` sees to it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # It has died already.
        os.kill(os.getpid(), signal.SIGKILL)


def watch(heartbeats: int, silence: float, patience: float) -> None:
    """Wait until there are no more heartbeats, and end this process: first as by SIGTERM, so that it can be resumed.

    Args:
        heartbeats: a file that a byte can be read from for each of them.
        silence: after how many seconds without one the process ends.
        patience: how many seconds it has for that.
    """
    while select.select([heartbeats], [], [], silence)[0] and os.read(heartbeats, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(patience)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    end_with_parent(int(sys.argv.pop(1)))
    heartbeats = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    threading.Thread(target=watch, args=(heartbeats, SILENCE, PATIENCE), daemon=True).start()
    main()
