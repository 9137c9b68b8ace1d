"""Settings of the whole suite."""

from hypothesis import settings

# A deadline would measure how busy the machine is, not whether the code is right.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")
