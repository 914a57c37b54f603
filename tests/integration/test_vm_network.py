"""The network of one VM, without engine and segment: from a tap of the keeper's to an interface in the container.

The keeper's home is a network namespace of the test's; a plain bridge there joins the VMs and the test's own end.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Literal

import pytest
from harness.bundled import (
    Container,
    Guest,
    bundled_container,
    launch_clone,
    launch_cold,
    launch_spare,
    make_guest,
)
from harness.kernel import UnpackedKernel
from harness.runtime import collect, sh

from atoll.engine.stage import Stages
from atoll.errors import AtollError, Conflict, InvalidRequest, NotFound, StartFailed
from atoll.guest import network_files
from atoll.model.agent import Process
from atoll.model.container import VmSpec
from atoll.model.network import Interface
from atoll.network.keeper_client import Keeper, start_keeper
from atoll.runtime.spawner import Spawner
from atoll.template import Stage, Template, build_template, template_spec
from atoll.vmm import QemuMonitor, slots

Way = Literal["cold", "clone", "pool"]
WAYS: tuple[Way, ...] = ("cold", "clone", "pool")
GATEWAY, GATEWAY_V6 = "192.0.2.1", "2001:db8::1"
_COMMAND_S = 30.0


def interface(slot: int, host: int, **changes: object) -> Interface:
    """The interface in a slot, with addresses that end in `host`; that in the first has the default routes."""
    fields = {
        "pci": slots.NETWORKS[slot],
        "name": f"eth{slot}",
        "mac": f"02:00:00:00:0{slot}:{host:02x}",
        "addresses": (f"192.0.2.{host}/24", f"2001:db8::{host:x}/64"),
        "gateways": (GATEWAY, GATEWAY_V6) if slot == 0 else (),
    }
    return Interface(**(fields | changes))  # type: ignore[arg-type]  # each test names real fields


@dataclass(frozen=True)
class Home:
    """The keeper's namespace, with a bridge that has the gateways' addresses."""

    directory: Path
    keeper: Keeper

    async def run(self, *command: str) -> str:
        """What a program in there prints; it has to succeed."""
        process = await asyncio.create_subprocess_exec(
            "nsenter", f"--net=/proc/{self.keeper.pid}/ns/net", *command, stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(_COMMAND_S):
            output, _ = await process.communicate()
        assert process.returncode == 0, f"{command}: {output!r}"
        return output.decode()

    async def plug(self, container: Container, slot: int = 0) -> None:
        """Put a VM's tap on the bridge."""
        tap = (await container.client.state()).taps[slot]
        await self.run("ip", "link", "set", tap, "master", "br0", "up")

    async def fetch(self, url: str) -> str:
        """What a web server in a container has there."""
        script = f"import urllib.request; print(urllib.request.urlopen({url!r}, timeout=10).read().decode())"
        return (await self.run("python3", "-c", script)).strip()


@pytest.fixture(scope="module")
def guest(kernel: UnpackedKernel, busybox_tar: Path, tmp_path_factory: pytest.TempPathFactory) -> Guest:
    return make_guest(kernel, busybox_tar, tmp_path_factory.mktemp("guest"))


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    async with await start_keeper(tmp_path / "net") as keeper:
        home = Home(tmp_path / "net", keeper)
        await home.run("ip", "link", "add", "br0", "type", "bridge")
        await home.run("ip", "address", "add", f"{GATEWAY}/24", "dev", "br0")
        await home.run("ip", "address", "add", f"{GATEWAY_V6}/64", "dev", "br0", "nodad")
        await home.run("ip", "link", "set", "br0", "up")
        yield home


NewContainer = Callable[..., Awaitable[Container]]


@pytest.fixture
async def new_container(guest: Guest, tmp_path: Path, home: Home) -> AsyncIterator[NewContainer]:
    """Makes containers with taps: `way` says how their VMs come to be. What is left of them at the end is killed."""
    async with AsyncExitStack() as stack:
        spawner = await stack.enter_async_context(Spawner())
        stages = tmp_path / "stages"
        stages.mkdir()
        stage = await stack.enter_async_context(Stages(stages).stage())
        templates: list[Template] = []

        async def new(way: Way, *command: str, interfaces: tuple[Interface, ...] = (), **config: object) -> Container:
            if way != "cold" and not templates:
                templates.append(await _template(guest, home, stage))
                stack.callback(templates[0].close)
            launch = {
                "cold": lambda: launch_cold,
                "clone": lambda: launch_clone(templates[0].saved),
                "pool": lambda: launch_spare(templates[0].saved, stage),
            }[way]()
            return await stack.enter_async_context(
                bundled_container(
                    guest,
                    spawner,
                    tmp_path,
                    command,
                    None,
                    config,
                    launch=launch,
                    keeper=str(home.directory),
                    interfaces=interfaces,
                    qemu="/usr/bin/qemu-system-x86_64",
                )
            )

        yield new


async def _template(guest: Guest, home: Home, stage: Stage) -> Template:
    vm = VmSpec(
        kernel=str(guest.kernel.image),
        initramfs=str(guest.kernel.initramfs),
        accelerator="tcg",
        qemu="/usr/bin/qemu-system-x86_64",
        cpus=1,
        memory_mib=256,
        boot_timeout_s=60,
        vm_uid=65534,
        run_dir="",
        keeper=str(home.directory),
    )
    return await build_template(QemuMonitor(), template_spec(vm), stage, vm.boot_timeout_s, vm.keeper)


async def _inside(container: Container, script: str) -> str:
    """What a script in the container prints."""
    process = Process(arguments=sh(script))
    identity = token_hex(4)
    async with container.client.exec(identity, process, privileged=False, stdin=False, stdout=True) as session:
        output = await collect(session)
    assert await container.client.exec_wait(identity) == 0, output
    return output["stdout"].decode().strip()


@pytest.mark.parametrize("way", ["cold", "pool"])
async def test_two_containers_and_their_gateway_reach_each_other(
    new_container: NewContainer, home: Home, way: Way
) -> None:
    serve = sh("hostname > /tmp/name; httpd -p 80 -h /tmp; sleep 1000")
    first = await new_container(way, *serve, interfaces=(interface(0, 2),))
    second = await new_container(way, *serve, interfaces=(interface(0, 3),))
    for container in (first, second):
        await home.plug(container)
        report = (await container.client.start()).report
        assert report is not None
        assert report.kind == way
    for address in ("192.0.2.3", "2001:db8::3", GATEWAY, GATEWAY_V6):
        assert "2 packets received" in await _inside(first, f"ping -c 2 -W 5 {address}")
    assert await _inside(first, "wget -qO- http://192.0.2.3/name") == "reef"
    assert await _inside(second, "wget -qO- http://[2001:db8::2]/name") == "reef"
    assert await home.fetch("http://192.0.2.2/name") == "reef"
    assert await home.fetch("http://[2001:db8::3]/name") == "reef"


@pytest.mark.parametrize("way", WAYS)
async def test_an_interface_is_complete_when_the_process_begins(new_container: NewContainer, way: Way) -> None:
    look = "ip -o address; ip route; ip -6 route; cat /sys/class/net/*/address /proc/sys/net/ipv6/conf/*/accept_ra"
    wanted = (interface(0, 2, mtu=1400), interface(1, 9, addresses=("198.51.100.9/28", "2001:db8:1::9/80")))
    container = await new_container(way, *sh(look), interfaces=wanted)
    assert (await container.run()).code == 0
    said = container.logged().decode()
    for part in (
        "192.0.2.2/24 brd 192.0.2.255 scope global eth0",
        "2001:db8::2/64 scope global",
        "fe80::ff:fe00:2/64 scope link",
        "198.51.100.9/28 brd 198.51.100.15 scope global eth1",
        "2001:db8:1::9/80 scope global",
        "default via 192.0.2.1 dev eth0",
        "default via 2001:db8::1 dev eth0",
        "02:00:00:00:01:09",
    ):
        assert part in said
    assert "tentative" not in said
    assert said.count("default") == 2


@pytest.mark.parametrize("way", ["clone", "pool"])
async def test_a_container_without_networks_has_the_loopback_interface_only(
    new_container: NewContainer, way: Way
) -> None:
    container = await new_container(
        way, *sh("ls /sys/class/net; tail -n +3 /proc/net/dev | wc -l; ping -c 1 127.0.0.1")
    )
    assert (await container.run()).code == 0
    assert container.logged().decode().split()[:2] == ["lo", "1"]


@pytest.mark.parametrize("way", ["clone"])
async def test_a_running_container_is_connected_and_disconnected(
    new_container: NewContainer, home: Home, way: Way
) -> None:
    container = await new_container(way, *sh("sleep 1000"))
    client = container.client
    await client.start()
    config = container.spec.config
    added = interface(2, 7, gateways=(GATEWAY,))
    for _ in range(2):
        await home.plug(container, 2)
        await client.connect_network(added, network_files(config, (added,), (GATEWAY,), ""))
        assert "2 packets received" in await _inside(container, f"ping -c 2 -W 5 {GATEWAY}")
        assert "192.0.2.7\treef" in await _inside(container, "cat /etc/hosts")
        assert await _inside(container, "cat /etc/resolv.conf") == f"nameserver {GATEWAY}\noptions ndots:0"
        with pytest.raises(Conflict, match="in use already"):
            await client.connect_network(added, {})
        await client.disconnect_network(added.pci, network_files(config, (), (), ""))
        assert await _inside(container, "ls /sys/class/net; cat /etc/resolv.conf; ip route") == "lo"
        assert "reef" not in await _inside(container, "cat /etc/hosts")
        with pytest.raises(NotFound, match="not in use"):
            await client.disconnect_network(added.pci, {})


@pytest.mark.parametrize(
    ("changes", "error", "why"),
    [
        ({"mac": "02:00:00"}, InvalidRequest, "02:00:00 is no address"),
        ({"addresses": ("192.0.2.2",)}, InvalidRequest, "192.0.2.2 is no address"),
        ({"gateways": ("198.51.100.1",)}, StartFailed, "use the gateway 198.51.100.1"),
        ({"pci": "0000:00:1f.0"}, AtollError, "no network device in PCI slot 0000:00:1f.0"),
    ],
)
async def test_an_interface_that_cannot_be_is_why_the_start_fails(
    new_container: NewContainer, changes: dict[str, object], error: type[AtollError], why: str
) -> None:
    container = await new_container("cold", "true", interfaces=(interface(0, 2, **changes),))
    with pytest.raises(error, match=why):
        await container.client.start()


async def test_taps_are_gone_when_their_vm_is(new_container: NewContainer, home: Home) -> None:
    container = await new_container("cold", *sh("sleep 1000"), interfaces=(interface(0, 2),))
    taps = (await container.client.start()).taps
    assert len(taps) == len(slots.NETWORKS)
    links = await home.run("ip", "link")
    assert all(tap in links for tap in taps)
    await container.client.stop(signal.SIGKILL, 0)
    await container.client.wait_gone()
    async with asyncio.timeout(10):  # QEMU's end is ours before its files are closed
        while taps[0].partition(".")[0] in await home.run("ip", "link"):
            pass
