"""The commands, a file for each verb or family of verbs; imported when called (see `names.py`)."""
