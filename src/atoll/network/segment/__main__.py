"""`python -m atoll.network.segment DIRECTORY NETWORK_ID`."""

import sys

from atoll.network.segment.process import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
