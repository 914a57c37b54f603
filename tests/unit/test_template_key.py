"""What one template may be used for: every input has a say, and nothing else."""

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import atoll
from atoll.model.container import VmSpec
from atoll.template import MEMORY_MIB, TemplateKey, growth_mib, machine_spec, template_key, template_spec
from atoll.vmm import SavedMachine
from atoll.vmm.qemu import command_line

MakeKey = Callable[..., TemplateKey]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name in ("kernel", "initramfs", "qemu"):
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.fixture
def make_vm(files: Path) -> Callable[..., VmSpec]:
    def make(**changes: object) -> VmSpec:
        vm = VmSpec(
            kernel=str(files / "kernel"),
            initramfs=str(files / "initramfs"),
            qemu=str(files / "qemu"),
            accelerator="tcg",
            cpus=2,
            memory_mib=1024,
            boot_timeout_s=5,
            vm_uid=None,
            run_dir="",
        )
        return msgspec.structs.replace(vm, **changes)

    return make


@pytest.fixture
def make_key(make_vm: Callable[..., VmSpec]) -> MakeKey:
    """The key of the template of a VM; keywords replace what goes into it."""

    def make(kernel_digest: str = "sha256:1", kernel_version: str = "6.1", **changes: object) -> TemplateKey:
        spec = template_spec(make_vm(**changes))
        return template_key(spec, kernel_digest=kernel_digest, kernel_version=kernel_version)

    return make


def test_the_same_inputs_give_the_same_template(make_key: MakeKey) -> None:
    assert make_key() == make_key()
    assert make_key().id == make_key().id
    assert len(bytes.fromhex(make_key().id)) == 32


@pytest.mark.parametrize(
    "changes",
    [{"vm_uid": 2_000_000_001}, {"run_dir": "/run/x"}, {"boot_timeout_s": 9}, {"memory_mib": 4096}],
    ids=lambda changes: next(iter(changes)),
)
def test_what_the_guest_was_not_made_of_has_no_say(make_key: MakeKey, changes: dict[str, object]) -> None:
    assert make_key(**changes) == make_key()


def test_where_the_kernel_lies_has_no_say(make_key: MakeKey, files: Path) -> None:
    key = make_key()
    (files / "kernel").rename(files / "elsewhere")
    assert make_key(kernel=str(files / "elsewhere")) == key


@pytest.mark.parametrize(
    "changes",
    [
        {"kernel_digest": "sha256:2"},
        {"kernel_version": "6.2"},
        {"cpus": 1},
        {"memory_mib": 128},
        {"accelerator": "kvm"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_the_guest_is_made_of_makes_another_template(make_key: MakeKey, changes: dict[str, object]) -> None:
    assert make_key(**changes).id != make_key().id


def test_another_initramfs_makes_another_template(make_key: MakeKey, files: Path) -> None:
    keys = {make_key()}
    (files / "initramfs").write_text("with more modules")
    keys.add(make_key())
    (files / "initramfs").rename(files / "initramfs-2")
    keys.add(make_key(initramfs=str(files / "initramfs-2")))
    assert len({key.id for key in keys}) == 3


def test_another_qemu_at_the_same_place_makes_another_template(make_key: MakeKey, files: Path) -> None:
    ids = {make_key().id}
    program = files / "qemu"
    modified = program.stat().st_mtime_ns
    os.utime(program, ns=(modified, modified + 1))
    ids.add(make_key().id)
    program.write_text("longer program")
    os.utime(program, ns=(modified, modified))
    ids.add(make_key().id)
    ids.add(make_key(qemu=str(files / "kernel")).id)
    assert len(ids) == 4


def test_another_qemu_behind_the_same_link_makes_another_template(make_key: MakeKey, files: Path) -> None:
    (files / "link").symlink_to(files / "qemu")
    key = make_key(qemu=str(files / "link"))
    (files / "link").unlink()
    (files / "link").symlink_to(files / "initramfs")
    assert make_key(qemu=str(files / "link")).id != key.id


def test_another_atoll_makes_another_template(make_key: MakeKey, monkeypatch: pytest.MonkeyPatch) -> None:
    key = make_key()
    monkeypatch.setattr(atoll, "__version__", "another")
    assert make_key().id != key.id


def test_another_command_line_makes_another_template(make_key: MakeKey, monkeypatch: pytest.MonkeyPatch) -> None:
    key = make_key()
    monkeypatch.setattr(command_line, "kernel_parameters", lambda _: ("quiet",))
    assert make_key().id != key.id


def test_a_host_with_room_for_other_cpus_makes_another_template(
    make_key: MakeKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = set()
    for count in (4, 8):
        monkeypatch.setattr("os.cpu_count", lambda count=count: count)
        ids.add(make_key().id)
    assert len(ids) == 2


@pytest.mark.parametrize(("accelerator", "templates"), [("tcg", 1), ("kvm", 2)])
def test_the_hosts_processor_has_a_say_where_the_guest_runs_on_it(
    make_key: MakeKey, monkeypatch: pytest.MonkeyPatch, accelerator: str, templates: int
) -> None:
    ids = set()
    for processor in ("old", "new"):
        monkeypatch.setattr("atoll.template.key._processor", lambda processor=processor: processor)
        ids.add(make_key(accelerator=accelerator).id)
    assert len(ids) == templates


def test_the_hosts_processor_stays_the_same_while_its_clock_changes(make_key: MakeKey) -> None:
    assert len({make_key(accelerator="kvm").host for _ in range(3)}) == 1


@pytest.mark.parametrize("missing", ["initramfs", "qemu"])
def test_a_missing_file_is_said_so(make_key: MakeKey, files: Path, missing: str) -> None:
    (files / missing).unlink()
    with pytest.raises(FileNotFoundError, match=missing):
        make_key()


@given(
    field=st.sampled_from([name for name in TemplateKey.__struct_fields__ if name != "accelerator"]),
    text=st.text(max_size=8),
    number=st.integers(1, 1 << 20),
)
def test_every_field_has_a_say_and_a_record_keeps_it(field: str, text: str, number: int) -> None:
    key = TemplateKey(
        kernel="a", kernel_version="b", initramfs="c", atoll_version="d", qemu="e", machine="f", accelerator="tcg",
        host="g", cpus=1, memory_mib=256,
    )  # fmt: skip
    value = number if isinstance(getattr(key, field), int) else text
    other = msgspec.structs.replace(key, **{field: value})
    assert (other.id == key.id) is (value == getattr(key, field))
    again = msgspec.json.decode(msgspec.json.encode(other), type=TemplateKey)
    assert (again, again.id) == (other, other.id)


@given(memory_mib=st.integers(1, 1 << 20))
def test_a_clone_grows_to_what_was_asked_in_whole_blocks(memory_mib: int) -> None:
    growth = growth_mib(memory_mib)
    assert growth % 128 == 0
    assert growth == 0 if memory_mib <= MEMORY_MIB else memory_mib <= MEMORY_MIB + growth < memory_mib + 128


@pytest.mark.parametrize(
    ("memory_mib", "growth"), [(128, 0), (255, 0), (256, 0), (257, 128), (384, 128), (385, 256), (1024, 768)]
)
def test_growth_is_what_a_template_lacks(memory_mib: int, growth: int) -> None:
    assert growth_mib(memory_mib) == growth


@pytest.mark.parametrize(("memory_mib", "template_mib"), [(128, 128), (256, 256), (4096, 256)])
def test_a_clone_begins_with_its_templates_memory_and_a_cold_boot_with_all(
    make_vm: Callable[..., VmSpec], memory_mib: int, template_mib: int
) -> None:
    vm = make_vm(memory_mib=memory_mib, vm_uid=1000)
    assert template_spec(vm).memory_mib == template_mib
    assert machine_spec(vm, "atoll-c", SavedMachine(3, 4)).memory_mib == template_mib
    assert machine_spec(vm, "atoll-c").memory_mib == memory_mib
    assert template_spec(vm).uid == 1000
