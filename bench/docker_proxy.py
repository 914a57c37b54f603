"""Debian's docker-proxy on the host of a bench, in front of the servers that a small segment's container has."""

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from harness.checkout import CHECKOUT, TOOLS
from harness.command import Command
from harness.internet import Outside
from harness.small_segment import SINK

_GATEWAY, _CONTAINER = "10.84.0.1", "10.84.0.2"
_PORT = 9001


@contextmanager
def docker_proxy(place: Outside) -> Iterator[int]:
    """The port of 127.0.0.1 at which it listens; behind it a bridge, and a namespace with the servers."""
    program = shutil.which("docker-proxy", path=f"{os.environ['PATH']}:/usr/sbin:{TOOLS}")
    if program is None:
        raise SystemExit("bench/network: docker-proxy is missing: scripts/install-peers installs Debian's Docker")
    namespace = f"atoll-bench-{secrets.token_hex(3)}"
    ip = Command(("ip", "-n", place.host))
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    processes = []
    try:
        ip.ok("link", "add", "docker1", "type", "bridge")
        ip.ok("address", "add", f"{_GATEWAY}/24", "dev", "docker1")
        ip.ok("link", "add", "docker1c", "type", "veth", "peer", "name", "eth0", "netns", namespace)
        ip.ok("link", "set", "docker1c", "master", "docker1", "up")
        ip.ok("link", "set", "docker1", "up")
        inside = ["ip", "netns", "exec", namespace]
        subprocess.run([*inside, "ip", "address", "add", f"{_CONTAINER}/24", "dev", "eth0"], check=True)
        subprocess.run([*inside, "ip", "link", "set", "eth0", "up"], check=True)
        servers = [*inside, sys.executable, "-c", "from harness.small_segment import peer; peer()"]
        processes.append(subprocess.Popen(servers, cwd=CHECKOUT / "tests"))
        words = ["-proto", "tcp", "-host-ip", "127.0.0.1", "-host-port", str(_PORT)]
        words += ["-container-ip", _CONTAINER, "-container-port", str(SINK)]
        # It says on descriptor 3 that it listens.
        processes.append(
            subprocess.Popen([*place.within(), "sh", "-c", 'exec "$@" 3>/dev/null', "sh", program, *words])
        )
        yield _PORT
    finally:
        for process in processes:
            process.kill()
            process.wait()
        ip("link", "delete", "docker1")
        subprocess.run(["ip", "netns", "delete", namespace], check=True)
