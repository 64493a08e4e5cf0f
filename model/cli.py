"""The command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from .errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, EXIT_USER, RunFailed, Stopped, UserError


def run_script(main: Callable[[], int]) -> NoReturn:
    """Run a script's main function and turn its exceptions into messages and exit statuses."""
    try:
        status = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = EXIT_USER
    except PermissionError as error:
        print(f"error: {error.filename}: permission denied", file=sys.stderr)
        status = EXIT_USER
    except RunFailed as error:
        print(f"failed: {error}", file=sys.stderr)
        status = EXIT_FAILED
    except (Stopped, KeyboardInterrupt) as error:
        print(f"stopped: {str(error) or 'run the same command to go on'}", file=sys.stderr)
        status = EXIT_STOPPED
    except BrokenPipeError:  # the reader of a table, such as `head`, went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = EXIT_DONE
    sys.exit(status)
