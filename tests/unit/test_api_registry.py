"""The credentials that clients send along, in the shapes in which they send them."""

import json
from base64 import b64encode, urlsafe_b64encode

import pytest
from aiohttp.test_utils import make_mocked_request

from atoll.api.registry import all_credentials_of, credentials_of
from atoll.errors import InvalidRequest
from atoll.image import ANONYMOUS, Credentials, registry_domain


def header(value: object) -> str:
    return urlsafe_b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize(
    ("value", "credentials"),
    [
        ({}, ANONYMOUS),
        ({"username": "sailor", "password": "ÿ>?", "email": "x"}, Credentials("sailor", "ÿ>?")),
        ({"auth": b64encode(b"sailor:co:ral").decode()}, Credentials("sailor", "co:ral")),
        ({"identitytoken": "i", "serveraddress": "reef"}, Credentials(identity_token="i")),
        ({"registrytoken": "r"}, Credentials(registry_token="r")),
    ],
)
def test_a_header_says_who_asks(value: object, credentials: Credentials) -> None:
    for text in (header(value), header(value).rstrip("="), b64encode(json.dumps(value).encode()).decode()):
        request = make_mocked_request("POST", "/", headers={"X-Registry-Auth": text})
        assert credentials_of(request) == credentials


@pytest.mark.parametrize("text", ["secret", "ÿ", header(["secret"]), header({"username": 1}), header("x")[:-3]])
def test_a_header_that_is_malformed_is_refused_without_repeating_it(text: str) -> None:
    request = make_mocked_request("POST", "/", headers={"X-Registry-Auth": text})
    with pytest.raises(InvalidRequest, match="X-Registry-Auth is malformed") as error:
        credentials_of(request)
    assert "secret" not in str(error.value)
    assert error.value.__cause__ is None


def test_a_mirror_gets_its_own_credentials_and_the_registry_its_own() -> None:
    own, others = {"username": "a", "password": "1"}, {"https://mirror:1/v2/": {"username": "b", "password": "2"}}
    headers = {"X-Registry-Auth": header(own), "X-Registry-Config": header(others)}
    request = make_mocked_request("POST", "/", headers=headers)
    assert all_credentials_of(request, "reef:5000/x") == {
        "reef:5000": Credentials("a", "1"),
        "mirror:1": Credentials("b", "2"),
    }


@pytest.mark.parametrize(
    ("address", "domain"), [("", "docker.io"), ("https://index.docker.io/v1/", "docker.io"), ("reef:5", "reef:5")]
)
def test_an_address_of_a_configuration_names_a_registry(address: str, domain: str) -> None:
    assert registry_domain(address) == domain
