"""What holds for all tests: nobody's own engine or Docker is ever touched, and no test fails for being slow."""

import os

from hypothesis import settings

settings.register_profile("atoll", deadline=None)
settings.load_profile("atoll")

for name in [name for name in os.environ if name.startswith(("ATOLL_", "DOCKER_"))]:
    if name not in ("ATOLL_AGENT", "ATOLL_TEST_DEBIAN", "ATOLL_TEST_KERNEL"):
        del os.environ[name]
