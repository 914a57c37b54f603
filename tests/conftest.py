"""What holds for all tests: nobody's own engine or Docker is ever touched."""

import os

for name in [name for name in os.environ if name.startswith(("ATOLL_", "DOCKER_"))]:
    if name not in ("ATOLL_AGENT", "ATOLL_TEST_DEBIAN", "ATOLL_TEST_KERNEL"):
        del os.environ[name]
