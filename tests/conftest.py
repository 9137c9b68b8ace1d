"""Settings of the whole suite."""

import os

from hypothesis import settings

# Test files run side by side, and models this small gain nothing from more threads; sums stay the
# same on every machine. Commands that tests start inherit it.
os.environ["OMP_NUM_THREADS"] = "1"

# A deadline would measure how busy the machine is, not whether the code is right.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")
