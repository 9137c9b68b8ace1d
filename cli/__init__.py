"""The two command-line programs. No logic: parse, call, print."""
