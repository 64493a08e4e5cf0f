"""Run a command that gets SIGTERM when its parent process ends, even if that was killed. Linux only.

    python die_with_parent.py PARENT_PID COMMAND ...

Not Popen's `preexec_fn`, which may deadlock in a program that has threads, as all have that import torch.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h; it survives exec, and it is sent when the parent's thread ends


def main() -> None:
    parent_pid, *command = sys.argv[1:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent_pid):
        sys.exit(f"the parent process {parent_pid} has ended already")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
