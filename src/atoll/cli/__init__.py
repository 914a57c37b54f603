"""The `atoll` command; `program.py` is where it begins."""
