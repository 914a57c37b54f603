"""One target of `harness.hostile` under atheris: run.py TARGET [libFuzzer's arguments]. Started by scripts/fuzz."""

import sys

import atheris

with atheris.instrument_imports(include=["atoll.image"]):
    from harness.hostile import TARGETS, outcome


def main() -> None:
    """Feed the target until something else than an outcome comes of it."""
    target = TARGETS[sys.argv[1]]

    def run(data: bytes) -> None:
        outcome(target, data)

    atheris.Setup([sys.argv[0], *sys.argv[2:]], run, custom_mutator=_mutate)
    atheris.Fuzz()


def _mutate(data: bytes, most: int, seed: int) -> bytes:
    """A mutation by libFuzzer; most of the time with the checksums of tar headers right, or it gets no further."""
    mutated = bytearray(atheris.Mutate(data, most))
    if seed % 8:
        for at in range(0, len(mutated) - 511, 512):
            if mutated[at + 257 : at + 262] == b"ustar":
                mutated[at + 148 : at + 156] = b" " * 8
                mutated[at + 148 : at + 156] = b"%06o\0 " % sum(mutated[at : at + 512])
    return bytes(mutated)


if __name__ == "__main__":
    main()
