"""`python -m atoll.engine` is `atolld`."""

from atoll.engine.main import main

main()
