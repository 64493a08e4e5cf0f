"""In a checkout, `import retort` is the package `model`, as it is once installed."""

import sys

import model

sys.modules[__name__] = model
