"""The entry point of `atoll`: it only makes the rest load faster."""

import gc


def main() -> None:
    """Run the command line; ends the process."""
    # Importing makes many objects and no garbage, and looking for it all the while takes a tenth of `atoll ps`.
    gc.set_threshold(100_000)
    from atoll.cli.program import main as run_program

    run_program()


if __name__ == "__main__":
    main()
