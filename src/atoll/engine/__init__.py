"""The engine, `atolld`: it owns containers and talks to their runtimes."""
