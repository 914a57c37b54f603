"""The kernel store: what is in use, and that a failure changes nothing."""

import asyncio
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from harness.elf import elf, kernel_module, pvh_kernel

from atoll.errors import InvalidRequest, NotFound, Unavailable
from atoll.kernel import KernelStore, agent_path
from atoll.kernel.modules import REQUIRED

RELEASE = "6.1.0-13-cloud-amd64"


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    path = tmp_path / "atoll-agent"
    _write_agent(path, b"agent one")
    return path


def _write_agent(path: Path, text: bytes) -> None:
    path.write_bytes(elf(sections={".text": text}))


@pytest.fixture
def store(tmp_path: Path, agent: Path) -> KernelStore:
    return KernelStore(tmp_path / "kernels", agent)


def _kernel(directory: Path, release: str = RELEASE, without: str = "") -> tuple[Path, Path]:
    modules = directory / "lib/modules" / release
    modules.mkdir(parents=True)
    (modules / "modules.builtin").touch()
    for name in REQUIRED:
        if name != without:
            (modules / f"{name}.ko").write_bytes(kernel_module())
    image = directory / f"vmlinuz-{release}"
    image.write_bytes(pvh_kernel(release))
    return image, modules


def _tree(root: Path) -> dict[str, bytes | str]:
    return {
        str(path.relative_to(root)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


async def test_without_a_kernel_the_error_says_how_to_set_one(store: KernelStore) -> None:
    with pytest.raises(Unavailable, match="no kernel is set: run 'atoll system kernel set --package"):
        await store.current()
    assert await store.list() == []


async def test_a_kernel_that_is_set_is_the_current_one(store: KernelStore, tmp_path: Path) -> None:
    info = await store.set_binary(*_kernel(tmp_path))
    kernel = await store.current()
    assert (kernel.version, kernel.digest) == (info.version, info.digest) == (RELEASE, kernel.digest)
    assert kernel.image.read_bytes() == pvh_kernel(RELEASE)
    assert b"\0".join(name.encode() for name in ["modules/virtio_pci.ko"]) in kernel.initramfs.read_bytes()
    assert await store.list() == [info]


async def test_qemus_unprivileged_user_can_read_image_and_initramfs(store: KernelStore, tmp_path: Path) -> None:
    previous = os.umask(0o077)
    try:
        await store.set_binary(*_kernel(tmp_path))
        kernel = await store.current()
    finally:
        os.umask(previous)
    assert kernel.image.stat().st_mode & 0o777 == 0o644
    assert kernel.initramfs.stat().st_mode & 0o777 == 0o644


async def test_another_kernel_takes_over_and_both_are_listed(store: KernelStore, tmp_path: Path) -> None:
    old = await store.set_binary(*_kernel(tmp_path / "old", "6.1.0-1"))
    new = await store.set_binary(*_kernel(tmp_path / "new", "6.12.0-1"))
    assert [(info.version, info.current) for info in await store.list()] == [("6.1.0-1", False), ("6.12.0-1", True)]
    assert old.digest != new.digest


async def test_a_kernel_may_be_set_again(store: KernelStore, tmp_path: Path) -> None:
    image, modules = _kernel(tmp_path)
    first = await store.set_binary(image, modules)
    renamed = image.rename(tmp_path / "renamed")
    second = await store.set_binary(renamed, modules)
    assert first.digest == second.digest
    assert await store.list() == [second]


async def test_the_directory_above_the_modules_will_do(store: KernelStore, tmp_path: Path) -> None:
    image, modules = _kernel(tmp_path)
    assert (await store.set_binary(image, modules.parent)).version == RELEASE


async def test_a_kernel_with_everything_built_in_needs_no_modules(store: KernelStore, tmp_path: Path) -> None:
    image, _ = _kernel(tmp_path)
    await store.set_binary(image, None)
    assert b"modules/virtio" not in (await store.current()).initramfs.read_bytes()


async def test_a_kernel_without_a_needed_module_leaves_the_old_one_in_use(store: KernelStore, tmp_path: Path) -> None:
    await store.set_binary(*_kernel(tmp_path / "good"))
    before = _tree(tmp_path / "kernels")
    image, modules = _kernel(tmp_path / "bad", "6.12.0-1", without="overlay")
    with pytest.raises(Unavailable, match=r"kernel 6\.12\.0-1 has no module overlay"):
        await store.set_binary(image, modules)
    assert _tree(tmp_path / "kernels") == before


async def test_modules_of_another_kernel_are_refused(store: KernelStore, tmp_path: Path) -> None:
    image, _ = _kernel(tmp_path / "one")
    _, modules = _kernel(tmp_path / "two", "6.12.0-1")
    with pytest.raises(InvalidRequest, match=rf"modules of kernel 6\.12\.0-1, but the image is kernel {RELEASE}"):
        await store.set_binary(image, modules)
    assert not (tmp_path / "kernels").exists()


async def test_what_a_killed_engine_left_half_made_is_swept_away(tmp_path: Path, agent: Path) -> None:
    half = tmp_path / "kernels/.new-abc"
    half.mkdir(parents=True)
    (half / "image").touch()
    KernelStore(tmp_path / "kernels", agent)
    assert list((tmp_path / "kernels").iterdir()) == []


async def test_a_new_agent_gets_a_new_initramfs(store: KernelStore, tmp_path: Path, agent: Path) -> None:
    await store.set_binary(*_kernel(tmp_path))
    first = (await store.current()).initramfs
    assert (await store.current()).initramfs == first
    _write_agent(agent, b"agent two")
    second = (await store.current()).initramfs
    assert b"agent two" in second.read_bytes()
    assert not first.exists()


async def test_a_missing_agent_is_named(store: KernelStore, tmp_path: Path, agent: Path) -> None:
    await store.set_binary(*_kernel(tmp_path))
    await asyncio.to_thread(agent.unlink)
    with pytest.raises(Unavailable, match=r"agent is missing: .*atoll-agent cannot be read .*'make demo'"):
        await store.current()
    await asyncio.to_thread(agent.write_text, "#!/bin/sh")
    with pytest.raises(Unavailable, match="is not a program"):
        await store.current()


def test_the_agent_can_be_named_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOLL_AGENT", "/somewhere/agent")
    assert agent_path() == Path("/somewhere/agent")
    monkeypatch.delenv("ATOLL_AGENT")
    assert agent_path().parts[-3:] == ("atoll", "_agent", "atoll-agent")


async def test_the_hosts_kernel_must_be_installed(store: KernelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    release = "0.0.0-not-installed"
    monkeypatch.setattr("os.uname", lambda: SimpleNamespace(release=release))
    with pytest.raises(NotFound, match=f"host's kernel cannot be used: /boot/vmlinuz-{release} is not there"):
        await store.set_host()


class TestPackages:
    """Packages made here and served by programs that stand in for apt's: nothing is downloaded."""

    @pytest.fixture(autouse=True)
    def archive(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """`linux-image-meta` depends on the image, which is in one package, its modules in another."""
        build, programs = tmp_path / "build", tmp_path / "bin"
        image, modules = _kernel(build / "files")
        self._package(
            build, f"linux-image-{RELEASE}", f"linux-modules-{RELEASE} | x", {f"boot/vmlinuz-{RELEASE}": image}
        )
        files = {f"usr/lib/modules/{RELEASE}/{path.name}": path for path in modules.iterdir()}
        self._package(build, f"linux-modules-{RELEASE}", "", files)
        self._package(build, "linux-image-meta", f"libc6, linux-image-{RELEASE} (= 6.1-1)", {})
        self._package(build, "linux-image-lonely", "", {f"boot/vmlinuz-{RELEASE}": image})
        self._package(build, "hello", "", {})
        programs.mkdir()
        self._program(programs / "apt-cache", f'dpkg-deb --field {build}/"$3".deb Package Depends')
        self._program(programs / "apt-get", f'shift 4; for name; do cp {build}/"$name".deb . || exit 100; done')
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    @staticmethod
    def _package(build: Path, name: str, depends: str, files: dict[str, Path]) -> None:
        tree = build / name
        (tree / "DEBIAN").mkdir(parents=True)
        fields = {"Package": name, "Version": "1", "Architecture": "all", "Maintainer": "A <a@example.org>"}
        fields |= {"Depends": depends} if depends else {}
        fields["Description"] = "test"
        (tree / "DEBIAN/control").write_text("".join(f"{key}: {value}\n" for key, value in fields.items()))
        for place, source in files.items():
            (tree / place).parent.mkdir(parents=True, exist_ok=True)
            (tree / place).write_bytes(source.read_bytes())
        subprocess.run(["dpkg-deb", "--build", "-Znone", tree, build / f"{name}.deb"], check=True, capture_output=True)

    @staticmethod
    def _program(path: Path, script: str) -> None:
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    async def test_a_meta_package_leads_to_the_kernel_and_its_modules(self, store: KernelStore, tmp_path: Path) -> None:
        info = await store.set_package("linux-image-meta")
        assert (info.version, info.source, info.current) == (RELEASE, "package linux-image-meta", True)
        assert sorted(path.name for path in (tmp_path / "kernels").iterdir()) == [info.digest[:16], "current"]

    async def test_an_unknown_package_is_named(self, store: KernelStore, tmp_path: Path) -> None:
        with pytest.raises(NotFound, match="package linux-image-nope is unknown to apt"):
            await store.set_package("linux-image-nope")
        assert list((tmp_path / "kernels").iterdir()) == []

    async def test_a_package_without_a_kernel_is_refused(self, store: KernelStore) -> None:
        with pytest.raises(Unavailable, match="package hello holds no kernel"):
            await store.set_package("hello")

    async def test_a_kernel_without_its_modules_is_refused(self, store: KernelStore) -> None:
        with pytest.raises(Unavailable, match=r"holds kernel .* without its modules"):
            await store.set_package("linux-image-lonely")

    @pytest.mark.parametrize("name", ["--help", "a b", "", "../x", "Linux"])
    async def test_what_cannot_be_a_package_is_refused(self, store: KernelStore, name: str) -> None:
        with pytest.raises(InvalidRequest, match="is not the name of a package"):
            await store.set_package(name)

    async def test_a_download_that_fails_says_why(self, store: KernelStore, tmp_path: Path) -> None:
        self._program(tmp_path / "bin/apt-get", "echo 'E: no space on the mirror' >&2; exit 100")
        with pytest.raises(Unavailable, match="could not be downloaded: no space on the mirror; run 'apt-get update'"):
            await store.set_package("linux-image-meta")

    async def test_a_host_without_apt_is_told_so(self, store: KernelStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "/nonexistent")
        with pytest.raises(Unavailable, match="apt-cache is not on this host"):
            await store.set_package("linux-image-meta")
