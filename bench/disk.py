"""Measures a container's disks against plain ones (docs/performance.md).

fio reads a file of 64 MiB from the image, and writes one of 256 MiB to the writable layer, in a container; and does
the same in a plain guest (bench/guest.py), from a squashfs and to an ext4, each a raw virtio-blk disk, of the same
content and size. The two take turns, after one of each that does not count. Before it reads, fio has the guest forget
what it has of the file; what it writes is synced within the time, to a file of a new name. QEMU is the same, so are the
host's page cache, and the processors. A container with `--verify` reads, too.

A ratio is the median of those of neighbouring runs: what else the machine does, it does to both. Exits with 1 when one
is below the limit. Needs fio, of which a copy goes into the image.
"""

import argparse
import asyncio
import contextlib
import io
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
from contextlib import ExitStack
from pathlib import Path

import boot
from engines import bench_engine, wait_until_pool_is
from figures import print_table, wait_until_quiet
from guest import ANSWER_S, Disk, Guest, GuestFailed, guest
from harness.images import busybox_root
from harness.kernel import unpacked_kernel

from atoll.image import make_writable_disk
from atoll.image.layer import write_layer

LEAST = 0.8
READ_MIB = 64
WRITE_MIB = 256
WRITABLE_MIB = 10240
OURS, PLAIN, VERIFIED = "container", "plain QEMU, raw disk", "container with --verify"
OURS_NAME, VERIFIED_NAME = "ours", "verified"
_FIO = "fio --name=x --output-format=json --bs=1M"
KINDS = {
    "read": f"{_FIO} --rw=read --size={READ_MIB}M --filename=/data/file --readonly",
    "write": f"{_FIO} --rw=write --size={WRITE_MIB}M --end_fsync=1 --filename=/written/{{}}",
}
"""What fio is to do, by the name of its figures; a file of a new name each time that it writes."""
TITLES = {"read": "read 64 MiB of the image", "write": "write 256 MiB to the writable layer"}
_LIBRARY = re.compile(r"(/\S+) \(0x")

Series = dict[str, list[float]]


def throughput_mib_s(kind: str, output: str) -> float:
    """MiB/s of a run of fio; `kind` is `read` or `write`."""
    return float(json.loads(output[output.index("{") :])["jobs"][0][kind]["bw_bytes"]) / (1 << 20)


def image_tar() -> bytes:
    """A root file system: busybox, fio with its libraries, a file to read."""
    fio = shutil.which("fio")
    if fio is None:
        raise SystemExit("bench/disk: fio is missing: apt-get install fio")
    libraries = subprocess.run(["ldd", fio], capture_output=True, text=True, check=True).stdout
    buffer = io.BytesIO(busybox_root())
    with tarfile.open(fileobj=buffer, mode="a") as tar:
        for path in (fio, *_LIBRARY.findall(libraries)):
            info = tarfile.TarInfo("usr/bin/fio" if path == fio else path.removeprefix("/"))
            info.mode, info.size = 0o755, Path(path).stat().st_size
            tar.addfile(info, io.BytesIO(Path(path).read_bytes()))
        written = tarfile.TarInfo("written")
        written.type, written.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(written)
        info = tarfile.TarInfo("data/file")
        info.size = READ_MIB << 20
        tar.addfile(info, io.BytesIO(os.urandom(info.size)))
    return buffer.getvalue()


def plain_guest(stack: ExitStack, scratch: Path, root: bytes) -> Guest:
    """A plain guest in which `/mnt` is the image, with an ext4 at `/mnt/written`."""
    kernel = unpacked_kernel()
    squashfs, ext4 = scratch / "squashfs", scratch / "ext4"
    with io.FileIO(squashfs, "w+") as opened:
        write_layer(io.BytesIO(root), opened)
    make_writable_disk(ext4, WRITABLE_MIB << 20, scratch, scratch)
    machine = asyncio.run(boot.machine(kernel, scratch))
    started = stack.enter_context(guest(kernel, machine, scratch, [Disk(squashfs), Disk(ext4, is_read_only=False)]))
    started.run("mount -t squashfs -o ro /dev/plain0 /mnt && mount -t ext4 /dev/plain1 /mnt/written")
    started.run("mount -o bind /dev /mnt/dev && mount -t proc proc /mnt/proc")
    return started


def measure(rounds: int) -> dict[str, Series]:
    """MiB/s by kind and by whose disk it is."""
    series: dict[str, Series] = {kind: {OURS: [], PLAIN: [], VERIFIED: []} for kind in KINDS}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="atoll-bench-")))
        root = image_tar()
        plain = plain_guest(stack, scratch, root)
        engine = stack.enter_context(bench_engine({"pool_size": 1}))
        engine.atoll.ok("image", "import", "-", "fio", input=root)
        wait_until_pool_is(engine, 1)
        for name, flags in ((OURS_NAME, ()), (VERIFIED_NAME, ("--verify",))):
            engine.atoll.ok("run", "-d", "--name", name, *flags, "fio", "sleep", "100000")
            wait_until_pool_is(engine, 1)

        def run(whose: str, line: str) -> str:
            if whose == PLAIN:
                return plain.run(f"chroot /mnt {line}")
            name = OURS_NAME if whose == OURS else VERIFIED_NAME
            return engine.atoll.ok("exec", name, "sh", "-c", line, timeout_s=ANSWER_S)

        for number in range(rounds + 1):
            for kind, line in KINDS.items():
                for whose in (OURS, PLAIN, VERIFIED) if kind == "read" else (OURS, PLAIN):
                    wait_until_quiet()
                    output = run(whose, line.format(number))
                    if number > 0:
                        series[kind][whose].append(throughput_mib_s(kind, output))
    return series


def main() -> None:
    """Measure, print, and compare with the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="runs of each kind that count (default: %(default)s)")
    options = parser.parse_args()
    is_broken = False
    for kind, series in measure(options.rounds).items():
        print_table(TITLES[kind], series, "MiB/s")
        ratio = statistics.median(ours / plain for ours, plain in zip(series[OURS], series[PLAIN], strict=True))
        is_broken |= ratio < LEAST
        print(f"ratio {ratio:.2f}, limit {LEAST}: {'BROKEN' if ratio < LEAST else 'ok'}")
    sys.exit(is_broken)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        try:
            main()
        except GuestFailed as error:
            sys.exit(f"bench/disk: {error}")
