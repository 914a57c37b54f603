"""What registries are called where credentials are kept: by their host, the default one by an address."""

DEFAULT_DOMAIN = "docker.io"
DEFAULT_SERVER = f"https://index.{DEFAULT_DOMAIN}/v1/"


def host_of(server: str) -> str:
    """The host (and port) of a key: old entries are addresses."""
    return server.removeprefix("https://").removeprefix("http://").partition("/")[0]


def server_key(server: str) -> str:
    """Under which key the registry that a user calls `server` is kept."""
    host = host_of(server)
    return DEFAULT_SERVER if host in ("", DEFAULT_DOMAIN, f"index.{DEFAULT_DOMAIN}") else host


def server_of_image(image: str) -> str:
    """The key of the registry that an image's name names; the first part is one with '.', ':' or as localhost."""
    first, slash, _ = image.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost" or first != first.lower()):
        return server_key(first)
    return DEFAULT_SERVER
