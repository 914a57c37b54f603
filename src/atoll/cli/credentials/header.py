"""What goes to the engine with a pull or a push: `X-Registry-Auth`, as Docker's clients send it."""

import json
from binascii import b2a_base64

from atoll.cli.credentials.config_file import ConfigFile, config_path
from atoll.cli.credentials.servers import server_of_image
from atoll.cli.credentials.stores import store_for


def registry_headers(image: str) -> dict[str, str]:
    """The header for the registry of an image, none where the user has not logged in; raises `Failure`."""
    server = server_of_image(image)
    login = store_for(ConfigFile(config_path()), server).get(server)
    if login is None:
        return {}
    said = {
        "username": login.username,
        "password": login.password,
        "identitytoken": login.identity_token,
        "serveraddress": server,
    }
    text = b2a_base64(json.dumps({name: value for name, value in said.items() if value}).encode(), newline=False)
    return {"X-Registry-Auth": text.decode().translate(str.maketrans("+/", "-_"))}
