"""Whether a registry takes a user's name and password."""

from atoll.errors import AccessDenied, AtollError
from atoll.image.registry.credentials import Credentials
from atoll.image.registry.endpoint import Registries, Scheme, endpoint_of
from atoll.image.registry.exchange import Exchange
from atoll.image.registry.repository import open_session


async def log_in(domain: str, credentials: Credentials, registries: Registries, scheme: Scheme = Scheme.AUTO) -> str:
    """Ask the registry called `domain`; the identity token that it gives, empty where it gives none.

    Raises `AccessDenied` when it does not take `credentials`, `RegistryFailed`, `InvalidRequest`.
    """
    endpoint = await endpoint_of(domain, registries, scheme)

    def refusal(why: str) -> AtollError:
        return AccessDenied(f"login to {domain} denied: unauthorized: incorrect username or password ({why})")

    async with open_session(endpoint, registries.patience) as session:
        exchange = Exchange(endpoint, session, credentials, (), registries.patience, refusal, offline=True)

        async def ask() -> None:
            missing = f"{domain} is no registry that we can speak to: it has no /v2/"
            async with exchange.request("GET", endpoint.base, accept=(200,), missing=missing):
                pass

        await exchange.persistently(ask)
        return exchange.authorization.identity_token
