"""`workbench`, and `python -m workbench`: the command line as a process."""

from __future__ import annotations

import os
import sys
import threading
from typing import NoReturn

from workbench.cli import main


def run() -> NoReturn:
    """Ends with main's exit code, at once where a thread of ours still works: Python would tear it out of the middle of
    torch, and the process abort. All that is to be written is by then."""
    code = main()
    if any(thread.name.startswith("sparseflex-") for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    run()
