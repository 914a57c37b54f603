"""Where the engine keeps what must outlive it: one SQLite database."""

from atoll.store.database import Database

__all__ = ["Database"]
