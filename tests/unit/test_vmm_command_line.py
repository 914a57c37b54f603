"""QEMU's command line: every device at its slot, nothing named by a path."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from atoll.errors import InvalidRequest, NotFound, VmFailed
from atoll.vmm import DiskSource, MachineSpec, SavedMachine, slots
from atoll.vmm.qemu.command_line import OpenFiles, Sockets, command_line, kernel_parameters, machine_digest
from atoll.vmm.qemu.handover import open_handover

SOCKETS = Sockets(control=3, agent=4, console=5, share=9, network=6)
SLOTS = {
    "virtio-serial-pci": slots.AGENT,
    "virtio-rng-pci": slots.ENTROPY,
    "virtio-balloon-pci": slots.BALLOON,
    "virtio-net-pci": slots.NETWORKS[0],
    "virtio-mem-pci": slots.GROWTH,
}

MakeSpec = Callable[..., MachineSpec]


@pytest.fixture
def make_spec(tmp_path: Path) -> MakeSpec:
    """A machine whose files all exist; keywords replace what it is made of."""

    def spec(**changes: object) -> MachineSpec:
        for name in ("kernel", "initramfs"):
            (tmp_path / name).touch()
        made = MachineSpec(
            kernel=tmp_path / "kernel",
            initramfs=tmp_path / "initramfs",
            cpus=2,
            memory_mib=256,
            accelerator="tcg",
        )
        return MachineSpec(**{**vars(made), **changes})

    return spec


def _devices(arguments: list[str]) -> list[dict[str, str]]:
    """The `-device` options by key; the device's kind is `driver`."""
    values = [value for option, value in pairwise(arguments) if option == "-device"]
    return [dict(part.split("=", 1) for part in f"driver={value}".split(",")) for value in values]


def _arguments(spec: MachineSpec) -> list[str]:
    return command_line(spec, SOCKETS, OpenFiles(kernel=7, initramfs=8, sets={}))


def test_every_device_is_at_its_slot_with_or_without_disks(make_spec: MakeSpec) -> None:
    bare = _devices(_arguments(make_spec()))
    disks = make_spec(image=DiskSource(Path("/layers.vmdk"), "vmdk", {10: Path("/layer")}), writable=Path("/writable"))
    assert _devices(_arguments(disks)) == bare
    places = {device["driver"]: int(device["addr"], 16) for device in bare if "addr" in device}
    assert {kind: places[kind] for kind in SLOTS} == {kind: slots.device_number(slot) for kind, slot in SLOTS.items()}
    drives = {device["drive"]: int(device["addr"], 16) for device in bare if "drive" in device}
    assert drives == {
        "image": slots.device_number(slots.IMAGE),
        "writable": slots.device_number(slots.WRITABLE),
        "volumes": slots.device_number(slots.VOLUMES),
    }


def test_taps_are_behind_as_many_devices_at_their_slots(make_spec: MakeSpec) -> None:
    sockets = replace(SOCKETS, network=None)
    files = OpenFiles(kernel=7, initramfs=8, sets={}, taps=(11, 12, 13, 14))
    arguments = command_line(make_spec(taps=files.taps), sockets, files)
    devices = [device for device in _devices(arguments) if device["driver"] == "virtio-net-pci"]
    assert [int(device["addr"], 16) for device in devices] == [slots.device_number(slot) for slot in slots.NETWORKS]
    backends = [value for option, value in pairwise(arguments) if option == "-netdev"]
    assert backends == [f"tap,id=network{number},fd={fd},vhost=off" for number, fd in enumerate(files.taps)]


def test_the_hosts_kernel_moves_frames_where_it_is_handed_over(make_spec: MakeSpec) -> None:
    files = OpenFiles(kernel=7, initramfs=8, sets={}, taps=(11, 12, 13, 14), vhosts=(21, 22, 23, 24))
    arguments = command_line(make_spec(taps=files.taps), replace(SOCKETS, network=None), files)
    backends = [value for option, value in pairwise(arguments) if option == "-netdev"]
    assert backends == [
        f"tap,id=network{number},fd={11 + number},vhost=on,vhostfd={21 + number}" for number in range(4)
    ]


def test_a_machine_with_taps_is_another_than_one_without_whichever_they_are(make_spec: MakeSpec) -> None:
    assert machine_digest(make_spec(taps=(11, 12, 13, 14))) == machine_digest(make_spec(taps=(-1,) * 4))
    assert machine_digest(make_spec(taps=(11, 12, 13, 14))) != machine_digest(make_spec())


def test_the_two_ports_of_the_guest_are_known_by_name_and_have_a_socket_each(make_spec: MakeSpec) -> None:
    arguments = _arguments(make_spec())
    ports = [device for device in _devices(arguments) if device["driver"] == "virtserialport"]
    assert {port["name"]: port["chardev"] for port in ports} == {"org.atoll.agent": "agent", "org.atoll.share": "share"}
    assert {"socket,id=agent,fd=4", "socket,id=share,fd=9"} <= set(_values(arguments, "-chardev"))


def test_nothing_is_named_by_its_path(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(image=DiskSource(tmp_path / "image"), writable=tmp_path / "writable")
    assert str(tmp_path) not in " ".join(_arguments(spec))


def test_qemu_may_neither_spawn_nor_gain_rights(make_spec: MakeSpec) -> None:
    arguments = _arguments(make_spec())
    assert "-nodefaults" in arguments
    assert "-no-user-config" in arguments
    sandbox = arguments[arguments.index("-sandbox") + 1]
    assert sandbox == "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@pytest.mark.parametrize(("accelerator", "cpu"), [("kvm", "host"), ("tcg", "max,-erms,-fsrm,-la57")])
def test_the_processor_fits_the_accelerator(make_spec: MakeSpec, accelerator: str, cpu: str) -> None:
    arguments = _arguments(make_spec(accelerator=accelerator))
    assert arguments[arguments.index("-cpu") + 1] == cpu


def test_only_an_emulated_clock_is_declared_reliable() -> None:
    assert "tsc=reliable" in kernel_parameters("tcg")
    assert "tsc=reliable" not in kernel_parameters("kvm")


def test_kernel_parameters_of_the_spec_come_last(make_spec: MakeSpec) -> None:
    arguments = _arguments(make_spec(kernel_parameters=("loglevel=7",)))
    assert arguments[arguments.index("-append") + 1].split()[-1] == "loglevel=7"


def test_there_is_room_for_more_cpus_than_the_machine_starts_with(make_spec: MakeSpec) -> None:
    arguments = _arguments(make_spec(cpus=1))
    assert arguments[arguments.index("-smp") + 1] == f"1,maxcpus={min(os.cpu_count() or 1, 32)}"
    many = _arguments(make_spec(cpus=100))
    assert many[many.index("-smp") + 1] == "100,maxcpus=100"


def _open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_all_files_are_handed_over_open_and_closed_again(make_spec: MakeSpec, tmp_path: Path) -> None:
    for name in ("descriptor", "layer", "head", "writable"):
        (tmp_path / name).touch()
    files = {98: tmp_path / "head", 100: tmp_path / "layer"}
    image = DiskSource(tmp_path / "descriptor", "vmdk", files)
    spec = make_spec(image=image, writable=tmp_path / "writable")
    before = _open_descriptors()
    with ExitStack() as ours, ExitStack() as theirs:
        _, handover = open_handover(spec, ours, theirs)
        opened = {number: Path(f"/proc/self/fd/{fd}").readlink() for number, fd in handover.files.sets.items()}
        assert opened == {1: tmp_path / "descriptor", 2: tmp_path / "writable", **files}
        assert len(set(handover.descriptors)) == 5 + 2 + 4
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(handover.files.sets[1], b"an image is read-only")
        os.write(handover.files.sets[2], b"a writable layer is not")
    assert _open_descriptors() == before


@pytest.mark.parametrize("missing", ["kernel", "initramfs", "writable"])
def test_a_missing_file_is_named_and_nothing_stays_open(make_spec: MakeSpec, tmp_path: Path, missing: str) -> None:
    before = _open_descriptors()
    spec = make_spec(**{missing: tmp_path / "nowhere"})
    with pytest.raises(NotFound, match=f"{tmp_path}/nowhere"), ExitStack() as ours, ExitStack() as theirs:
        open_handover(spec, ours, theirs)
    assert _open_descriptors() == before


def test_a_file_that_cannot_be_opened_is_named(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(writable=tmp_path)
    with pytest.raises(VmFailed, match="Is a directory"), ExitStack() as ours, ExitStack() as theirs:
        open_handover(spec, ours, theirs)


def test_a_composed_image_keeps_off_the_machines_own_numbers(make_spec: MakeSpec, tmp_path: Path) -> None:
    image = DiskSource(tmp_path / "kernel", "vmdk", {1: tmp_path / "kernel"})
    make_spec()
    with pytest.raises(InvalidRequest, match="set 1 of disk"), ExitStack() as ours, ExitStack() as theirs:
        open_handover(make_spec(image=image), ours, theirs)


SAVED = SavedMachine(memory=40, state=41)


def _values(arguments: list[str], option: str) -> list[str]:
    return [value for name, value in pairwise(arguments) if name == option]


def _with_memory(spec: MachineSpec) -> list[str]:
    return command_line(spec, SOCKETS, OpenFiles(kernel=7, initramfs=8, sets={}, memory=40))


def test_a_machine_that_boots_has_memory_of_its_own_and_waits_to_be_let_go(make_spec: MakeSpec) -> None:
    arguments = _arguments(make_spec())
    assert "memory-backend-ram,id=ram,size=256M" in _values(arguments, "-object")
    assert "-S" in arguments
    assert "-incoming" not in arguments


def test_a_machine_that_was_saved_has_a_private_map_of_the_memory_and_goes_on_by_itself(make_spec: MakeSpec) -> None:
    arguments = _with_memory(make_spec(saved=SAVED))
    ram = "memory-backend-file,id=ram,size=256M,mem-path=/proc/self/fd/40,share=off"
    assert ram in _values(arguments, "-object")
    assert "-S" not in arguments
    assert _values(arguments, "-incoming") == ["defer"]


def test_a_machine_that_is_to_be_saved_shares_its_memory_with_the_file(make_spec: MakeSpec) -> None:
    arguments = _with_memory(make_spec(save_to=SAVED))
    ram = "memory-backend-file,id=ram,size=256M,mem-path=/proc/self/fd/40,share=on"
    assert ram in _values(arguments, "-object")
    assert "-S" in arguments
    assert "-incoming" not in arguments


def test_saved_and_saving_machines_are_the_same_to_their_guest(make_spec: MakeSpec) -> None:
    saving, saved = _with_memory(make_spec(save_to=SAVED)), _with_memory(make_spec(saved=SAVED))
    assert _devices(saved) == _devices(saving)
    for option in ("-machine", "-smp", "-m", "-cpu", "-accel", "-append", "-bios"):
        assert _values(saved, option) == _values(saving, option)


@pytest.mark.parametrize("field", ["saved", "save_to"])
def test_a_saved_machines_files_are_handed_over_and_stay_ours(make_spec: MakeSpec, tmp_path: Path, field: str) -> None:
    before = _open_descriptors()
    memory, state = os.memfd_create("memory"), os.memfd_create("state")
    os.write(state, b"devices")
    with ExitStack() as ours, ExitStack() as theirs:
        _, handover = open_handover(make_spec(**{field: SavedMachine(memory, state)}), ours, theirs)
        assert handover.files.memory == memory
        assert memory in handover.descriptors
        if field == "saved":
            assert handover.state is not None
            assert handover.state in handover.descriptors
            assert handover.state != state
            assert os.read(handover.state, 100) == b"devices"  # from the beginning, wherever our own position is
        else:
            assert handover.state is None
    assert os.lseek(state, 0, os.SEEK_CUR) == len(b"devices")
    os.close(memory)
    os.close(state)
    assert _open_descriptors() == before


@pytest.mark.parametrize(
    "changes",
    [{"kernel": Path("/elsewhere")}, {"initramfs": Path("/elsewhere")}, {"uid": 1000}, {"qemu": "/usr/local/bin/qemu"}],
    ids=lambda changes: next(iter(changes)),
)
def test_machines_that_differ_in_their_files_are_the_same_machine(
    make_spec: MakeSpec, changes: dict[str, object]
) -> None:
    assert machine_digest(make_spec(**changes)) == machine_digest(make_spec())


@pytest.mark.parametrize(
    "changes",
    [{"cpus": 1}, {"memory_mib": 512}, {"accelerator": "kvm"}, {"kernel_parameters": ("loglevel=7",)}],
    ids=lambda changes: next(iter(changes)),
)
def test_machines_that_differ_for_their_guest_are_different(make_spec: MakeSpec, changes: dict[str, object]) -> None:
    assert machine_digest(make_spec(**changes)) != machine_digest(make_spec())
