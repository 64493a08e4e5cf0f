"""Become a command that gets SIGTERM when the process that started it ends, even by SIGKILL. Linux only.

    python die_with_parent.py PROCESS COMMAND ...

Not Popen's `preexec_fn`, which may deadlock in a program that has threads, as all have that import torch.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h; it outlives exec, and it fires when the starting thread ends


def main() -> None:
    process, *command = sys.argv[1:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(process):
        sys.exit(f"process {process} ended before this one began")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
