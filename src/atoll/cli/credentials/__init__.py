"""Who the user is for registries: kept as Docker keeps it, in `~/.docker/config.json` and by credential helpers.

https://docs.docker.com/reference/cli/docker/login/#credential-stores
"""

from atoll.cli.credentials.config_file import ConfigFile, config_path
from atoll.cli.credentials.header import registry_headers
from atoll.cli.credentials.login import Login
from atoll.cli.credentials.servers import DEFAULT_SERVER, server_key, server_of_image
from atoll.cli.credentials.stores import Store, logins, store_for

__all__ = [
    "DEFAULT_SERVER",
    "ConfigFile",
    "Login",
    "Store",
    "config_path",
    "logins",
    "registry_headers",
    "server_key",
    "server_of_image",
    "store_for",
]
