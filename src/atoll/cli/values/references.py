"""Names of images: `repository:tag` and `repository@digest`."""


def split_reference(name: str) -> tuple[str, str]:
    """Repository and tag (or digest, `sha256:...`), which is empty where the name has none."""
    repository, separator, digest = name.partition("@")
    if separator:
        return repository, digest
    head, slash, last = name.rpartition("/")
    base, _, tag = last.partition(":")
    return f"{head}{slash}{base}", tag


def normalized(name: str) -> str:
    """With the tag that it means: `latest` unless it says another."""
    repository, tag = split_reference(name)
    return name if tag else f"{repository}:latest"
