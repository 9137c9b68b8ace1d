"""cpusim: a small, exact, very fast CPU that assembles, runs, traces and generates programs."""

__version__ = "0.1.0"
