"""The way out, as the outlet has it: at most one, made, kept or replaced as the segment wishes."""

from collections.abc import Sequence
from contextlib import closing

from atoll.network.routes import Routes
from atoll.network.segment.uplink.link import Link, Wish, choose_link
from atoll.network.segment.uplink.pasta import Pasta
from atoll.network.segment.uplink.veth import Veth


class Outside:
    """What the outlet has made for its segment."""

    def __init__(self) -> None:
        self._wish: Wish | None = None
        self._link: Link | None = None
        self._made: Pasta | Veth | None = None

    def make(self, wish: Wish | None, namespaces: Sequence[int]) -> Link | None:
        """Have what is wished for; `namespaces` are the segment's network and user namespace. Raises `Unavailable`."""
        if wish == self._wish and self._made is not None and self._made.is_alive():
            return self._link
        self.close()
        if wish is None:
            return None
        with closing(Routes()) as routes:
            link = choose_link(wish.name, routes.destinations(), configured=wish.kind == "pasta")
        network, user = namespaces
        if wish.kind == "veth":
            self._made = Veth(wish.name, link, network)
        else:
            self._made = Pasta(link, network, user, to_host=wish.to_host)
        self._link = self._made.link
        self._wish = wish
        return self._link

    def close(self) -> None:
        """Remove it."""
        self._wish = None
        if self._made is not None:
            made, self._made = self._made, None
            made.close()
