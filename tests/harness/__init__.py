"""What integration tests stand on: an engine of their own, its kernel and images, the commands that talk to it."""
