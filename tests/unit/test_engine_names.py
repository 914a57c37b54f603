import re

import pytest

from atoll.engine.names import check_name, random_name
from atoll.engine.registry import Registry
from atoll.engine.restart import Backoff
from atoll.engine.signals import signal_number
from atoll.errors import Conflict, InvalidRequest, NotFound


class Named:
    def __init__(self, id: str, name: str) -> None:
        self.id = id
        self.name = name


@pytest.fixture
def registry() -> Registry[Named]:
    registry: Registry[Named] = Registry()
    for id, name in (("abc1", "reef"), ("abd2", "atoll"), ("ffff", "abc")):
        registry.add(Named(id, registry.reserve(name, id)))
    return registry


@pytest.mark.parametrize(
    ("reference", "id"), [("abc1", "abc1"), ("abd", "abd2"), ("reef", "abc1"), ("/reef", "abc1"), ("abc", "ffff")]
)
def test_a_container_is_found_by_id_name_or_prefix_and_a_name_goes_before_a_prefix(
    registry: Registry[Named], reference: str, id: str
) -> None:
    assert registry.get(reference).id == id


def test_a_prefix_of_two_is_ambiguous_and_of_none_unknown(registry: Registry[Named]) -> None:
    with pytest.raises(InvalidRequest, match="Multiple IDs found with provided prefix: ab"):
        registry.get("ab")
    with pytest.raises(NotFound, match="No such container: nosuch"):
        registry.get("nosuch")


def test_a_taken_name_is_a_conflict_that_names_its_owner(registry: Registry[Named]) -> None:
    with pytest.raises(Conflict, match=r'The container name "/reef" is already in use by container "abc1"'):
        registry.reserve("reef", "1234")


def test_the_newest_container_comes_first(registry: Registry[Named]) -> None:
    assert [container.name for container in registry] == ["abc", "atoll", "reef"]


@pytest.mark.parametrize("name", ["-x", "a b", "a", "", "é1", "a/b"])
def test_names_that_docker_refuses_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="Invalid container name"):
        check_name(name)


def test_random_names_are_allowed_and_do_not_repeat() -> None:
    taken: set[str] = set()
    for _ in range(500):
        name = random_name(taken)
        assert check_name(name) == name
        assert name not in taken
        taken.add(name)


def test_the_delay_before_a_restart_doubles_up_to_a_minute_and_begins_anew_after_a_good_run() -> None:
    backoff = Backoff()
    delays = [backoff.next_delay(0.1) for _ in range(11)]
    assert delays[:4] == [0.1, 0.2, 0.4, 0.8]
    assert delays[-1] == 60
    assert backoff.next_delay(10) == 0.1


@pytest.mark.parametrize(
    ("name", "number"),
    [("TERM", 15), ("SIGTERM", 15), ("sigkill", 9), ("9", 9), ("RTMIN+3", 37), ("SIGRTMAX", 64), ("hup", 1)],
)
def test_signals_go_by_name_and_number(name: str, number: int) -> None:
    assert signal_number(name) == number


@pytest.mark.parametrize("name", ["FOO", "0", "65", "-1", "", "SIG", "RTMAX+1", "_DFL"])
def test_other_signals_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="Invalid signal: " + re.escape(name)):
        signal_number(name)
