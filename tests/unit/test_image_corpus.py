"""What comes from strangers is read or refused, in bounded time and memory: a corpus of cases, and mutations of it."""

import gzip
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from backports import zstd
from harness.archives import file, tar
from harness.checkout import CHECKOUT
from harness.hostile import TARGETS, outcome
from hypothesis import given, settings
from hypothesis import strategies as st

CORPUS = CHECKOUT / "tests/corpus"
OUTCOMES: dict[str, dict[str, str]] = tomllib.loads((CORPUS / "outcomes.toml").read_text())
CASES = [(target, name) for target, names in OUTCOMES.items() for name in names]


@pytest.mark.parametrize(("target", "name"), CASES)
def test_every_case_of_the_corpus_has_its_outcome(target: str, name: str) -> None:
    assert outcome(TARGETS[target], (CORPUS / target / name).read_bytes()) == OUTCOMES[target][name]


def test_every_file_of_the_corpus_has_an_outcome_and_every_target_a_corpus() -> None:
    there = {(path.parent.name, path.name) for path in CORPUS.glob("*/*")}
    assert there == set(CASES)
    assert set(OUTCOMES) == set(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=150, deadline=2000)
@given(st.data())
def test_a_mutation_of_the_corpus_is_read_or_refused(target: str, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(OUTCOMES[target])))
    raw = bytearray((CORPUS / target / name).read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        at, end = sorted((data.draw(st.integers(0, len(raw))), data.draw(st.integers(0, len(raw)))))
        raw[at : min(end, at + data.draw(st.integers(0, 600)))] = data.draw(st.binary(max_size=40))
    for block in range(0, len(raw) - 511, 512) if data.draw(st.booleans()) else ():
        # Else hardly any mutation of a tar gets past its checksums.
        raw[block + 148 : block + 156] = b" " * 8
        raw[block + 148 : block + 156] = b"%06o\0 " % sum(raw[block : block + 512])
    assert isinstance(outcome(TARGETS[target], bytes(raw)), str)


BOMBS = {
    "gzip": gzip.compress(bytes(64 << 20)),
    "gzip in gzip": gzip.compress(gzip.compress(bytes(64 << 20))),
    "zstd": zstd.compress(bytes(64 << 20)),
    "a file of zeros": zstd.compress(tar([file("zeros", bytes(64 << 20))])),
    "small members of gzip": gzip.compress(bytes(1 << 20)) * 64,
    "members of nothing": gzip.compress(b"") * 200_000,
    "frames of nothing": zstd.compress(b"") * 200_000,
    "zstd with a window of 2 GiB": b"\x28\xb5\x2f\xfd\x00\xa8" + bytes(100),
    "names": zstd.compress(tar(file(f"{number:0200}") for number in range(10_000))),
}
_MOST_MIB = 200


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.timeout(30)
def test_a_bomb_is_refused_without_taking_the_memory_of_the_host(name: str, tmp_path: Path) -> None:
    (tmp_path / "bomb").write_bytes(BOMBS[name])
    code = (
        "import sys; from pathlib import Path; from harness.hostile import layer, outcome;"
        " print(outcome(layer, Path(sys.argv[1]).read_bytes())); print(Path('/proc/self/status').read_text())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "bomb"],
        env={"PYTHONPATH": f"{CHECKOUT}/tests:{CHECKOUT}/src"},
        check=True,
        capture_output=True,
        text=True,
    )
    said, _, status = done.stdout.partition("\n")
    assert said.startswith(("refused: ", "0 entries"))
    assert int(status.partition("VmHWM:")[2].split()[0]) < _MOST_MIB * 1024
