"""Values that cross process boundaries: what host, guest, engine and runtime say to each other."""
