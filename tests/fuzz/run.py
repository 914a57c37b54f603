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

    atheris.Setup([sys.argv[0], *sys.argv[2:]], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
