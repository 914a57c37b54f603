"""The `atoll` command; `main.py` is where it begins."""
