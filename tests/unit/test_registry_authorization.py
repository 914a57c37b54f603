"""Tokens, passwords, certificates: how we prove who we are, and how a registry proves who it is."""

import ssl
from base64 import b64encode
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from harness.registry_security import Authority, authority
from harness.rude_registry import CONFIG, RudeRegistry, digest, open_store

from atoll.errors import AccessDenied, InvalidRequest, NotFound, RegistryFailed
from atoll.image import ContentStore, Credentials, Registries, log_in

PASSWORD = "the password"
SAILOR = Credentials("sailor", PASSWORD)
BASIC = "Basic " + b64encode(f"sailor:{PASSWORD}".encode()).decode()


class TokenService:
    """Guards a registry: tokens are good for so many requests."""

    def __init__(self, registry: RudeRegistry, host: str, *, good_for: int = 1000) -> None:
        self.given: list[Mapping[str, str]] = []
        self._registry = registry
        self._host = host
        self._good_for = good_for
        self._left = 0
        registry.replaced |= {"/v2/": self.guard, "/token": self.token}

    async def guard(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") == f"Bearer token-{len(self.given)}" and self._left:
            self._left -= 1
            if request.path == "/v2/":
                return web.json_response({})
            return await self._registry.usual(request)
        headers = {"WWW-Authenticate": f'Bearer realm="http://{self._host}/token",service="reef"'}
        return web.Response(status=401, headers=headers)

    async def token(self, request: web.Request) -> web.StreamResponse:
        form = dict(await request.post())
        if request.headers.get("Authorization") != BASIC and form.get("refresh_token") != "identity":
            return web.json_response({"errors": [{"code": "UNAUTHORIZED"}]}, status=401)
        self.given.append({key: str(value) for key, value in {**request.query, **form}.items()})
        self._left = self._good_for
        answer = {"token": f"token-{len(self.given)}"}
        if request.query.get("offline_token"):
            answer["refresh_token"] = "identity"
        return web.json_response(answer)


async def test_a_password_goes_to_the_token_service(store: ContentStore, registry: RudeRegistry, host: str) -> None:
    service = TokenService(registry, host)
    assert (await store.pull(f"{host}/reef:1", credentials={host: SAILOR})).id == digest(CONFIG)
    assert service.given == [{"service": "reef", "scope": "repository:reef:pull", "account": "sailor"}]


async def test_a_token_that_expires_in_the_middle_is_renewed(
    store: ContentStore, registry: RudeRegistry, host: str
) -> None:
    service = TokenService(registry, host, good_for=1)
    assert (await store.pull(f"{host}/reef:1", credentials={host: SAILOR})).id == digest(CONFIG)
    # Manifest, configuration, layer.
    assert len(service.given) == 3


async def test_an_identity_token_is_exchanged_for_one_of_the_registry(
    store: ContentStore, registry: RudeRegistry, host: str
) -> None:
    service = TokenService(registry, host)
    credentials = {host: Credentials(identity_token="identity")}
    assert (await store.pull(f"{host}/reef:1", credentials=credentials)).id == digest(CONFIG)
    assert service.given[0]["grant_type"] == "refresh_token"
    assert service.given[0]["scope"] == "repository:reef:pull"


async def test_a_registry_token_is_used_as_it_is(store: ContentStore, registry: RudeRegistry, host: str) -> None:
    service = TokenService(registry, host)
    service.given.append({})
    service._left = 1000
    credentials = {host: Credentials(registry_token="token-1")}
    assert (await store.pull(f"{host}/reef:1", credentials=credentials)).id == digest(CONFIG)


@pytest.mark.parametrize("credentials", [{}, {"other:5000": SAILOR}])
async def test_credentials_go_to_nobody_but_their_registry(
    store: ContentStore, registry: RudeRegistry, host: str, credentials: dict[str, Credentials]
) -> None:
    service = TokenService(registry, host)
    with pytest.raises(NotFound, match="pull access denied"):
        await store.pull(f"{host}/reef:1", credentials=credentials)
    assert service.given == []


@pytest.mark.parametrize("challenge", ["Basic realm=reef", 'Bearer realm="http://{host}/token",service="reef"'])
async def test_a_wrong_password_is_one_clear_error_without_the_password(
    registry: RudeRegistry, store: ContentStore, host: str, challenge: str
) -> None:
    TokenService(registry, host)

    async def guard(request: web.Request) -> web.StreamResponse:
        return web.Response(status=401, headers={"WWW-Authenticate": challenge.format(host=host)})

    registry.replaced["/v2/"] = guard
    wrong = Credentials("sailor", "wrong secret")
    with pytest.raises(NotFound, match="pull access denied") as refused:
        await store.pull(f"{host}/reef:1", credentials={host: wrong})
    with pytest.raises(AccessDenied, match="unauthorized: incorrect username or password") as denied:
        await log_in(host, wrong, Registries())
    assert "wrong secret" not in f"{refused.value} {denied.value} {wrong!r}"


async def test_a_login_gives_the_identity_token_of_the_service(registry: RudeRegistry, host: str) -> None:
    TokenService(registry, host)
    assert await log_in(host, SAILOR, Registries()) == "identity"


async def test_what_is_no_registry_is_not_logged_in_to(registry: RudeRegistry, host: str) -> None:
    with pytest.raises(NotFound, match="no registry that we can speak to"):
        await log_in(host, SAILOR, Registries())


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that only those who are told trust."""
    return authority(tmp_path_factory.mktemp("ca"))


async def serve_https(registry: RudeRegistry, stack: AsyncExitStack, ca: Authority, name: str, days: int = 2) -> str:
    certificate, key = ca.issue(name, days=days)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca.certificate)
    context.load_cert_chain(certificate, key)
    if name == "asks":
        context.verify_mode = ssl.CERT_REQUIRED
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", registry.answer)
    server = TestServer(app, scheme="https")
    await server.start_server(ssl=context)
    stack.push_async_callback(server.close)
    return f"127.0.0.1:{server.port}"


def trust(root: Path, host: str, ca: Authority) -> Path:
    directory = root / "certs.d" / host
    directory.mkdir(parents=True)
    (directory / "ca.crt").write_bytes(ca.certificate.read_bytes())
    return directory


async def test_an_authority_of_certs_d_is_trusted_for_its_registry(
    registry: RudeRegistry, ca: Authority, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        host = await serve_https(registry, stack, ca, "good")
        store = open_store(tmp_path)
        with pytest.raises(RegistryFailed, match="cannot be trusted: its certificate is not valid"):
            await store.pull(f"{host}/reef:1")
        trust(tmp_path, host, ca)
        assert (await store.pull(f"{host}/reef:1")).id == digest(CONFIG)


async def test_an_expired_certificate_is_one_clear_error(registry: RudeRegistry, ca: Authority, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        host = await serve_https(registry, stack, ca, "expired", days=-1)
        trust(tmp_path, host, ca)
        with pytest.raises(RegistryFailed, match="certificate has expired"):
            await open_store(tmp_path).pull(f"{host}/reef:1")
    assert registry.requests == []


async def test_a_registry_that_asks_for_our_certificate_gets_it(
    registry: RudeRegistry, ca: Authority, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        host = await serve_https(registry, stack, ca, "asks")
        directory, store = trust(tmp_path, host, ca), open_store(tmp_path)
        with pytest.raises(RegistryFailed):
            await store.pull(f"{host}/reef:1")
        certificate, key = ca.issue("client")
        (directory / "client.cert").write_bytes(certificate.read_bytes())
        with pytest.raises(InvalidRequest, match="missing key"):
            await store.pull(f"{host}/reef:1")
        (directory / "client.key").write_bytes(key.read_bytes())
        assert (await store.pull(f"{host}/reef:1")).id == digest(CONFIG)
