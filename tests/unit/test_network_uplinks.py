from datetime import UTC, datetime
from pathlib import Path

import pytest

from atoll.errors import Unavailable
from atoll.model.network import Network
from atoll.network import uplinks

NETWORK = Network(id="0", name="reef", created_at=datetime.now(UTC))


@pytest.fixture
def forwarding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "ip_forward"
    path.write_text("1\n")
    monkeypatch.setattr(uplinks, "_FORWARDING", path)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    return path


@pytest.mark.parametrize(
    ("uid", "forwards", "driver", "chosen"),
    [
        (0, "1", "bridge", "veth"),
        (0, "0", "bridge", "pasta"),
        (0, "1", "host", "pasta"),
        (1000, "1", "bridge", "pasta"),
        (0, "1", "null", "none"),
    ],
)
def test_the_way_out_follows_from_user_and_host(
    uid: int, forwards: str, driver: str, chosen: str, forwarding: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: uid)
    forwarding.write_text(forwards)
    network = Network(id="0", name="reef", created_at=NETWORK.created_at, driver=driver)  # type: ignore[arg-type]  # one of the three
    assert uplinks.choose_uplink(network) == chosen


def test_without_pasta_its_package_is_named(forwarding: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(Unavailable, match="passt"):
        uplinks.choose_uplink(NETWORK)
    internal = Network(id="0", name="reef", created_at=NETWORK.created_at, internal=True)
    assert uplinks.choose_uplink(internal) == "none"


def test_resolvers_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(
        "# nameserver 192.0.2.9\nsearch reef\nnameserver 192.0.2.1\nnameserver nonsense\n nameserver ::1 x\n"
    )
    assert uplinks.host_resolvers(path) == ("192.0.2.1", "::1")
    assert uplinks.host_resolvers(tmp_path / "none") == ()


def test_the_hosts_addresses_are_no_loopback() -> None:
    assert not any(address.startswith(("127.", "fe80:")) or address == "::1" for address in uplinks.host_addresses())
