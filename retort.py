"""In a checkout, `import retort` imports the package `model`, whose name is `retort` once it is installed."""

import sys
from typing import TYPE_CHECKING

import model

if TYPE_CHECKING:
    from model import *

if __name__ == "__main__":  # python -m retort
    from model.cli import main

    main()
sys.modules[__name__] = model
