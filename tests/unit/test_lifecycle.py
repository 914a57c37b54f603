"""The transition table of a container's life."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.model.container import ContainerState
from atoll.runtime.lifecycle import ENDED, TRANSITIONS, IllegalTransition, Lifecycle

moves = st.lists(st.sampled_from(ContainerState))


@given(moves=moves)
def test_only_what_the_table_allows_ever_happens(moves: list[ContainerState]) -> None:
    life = Lifecycle()
    for to in moves:
        before = life.state
        if to in TRANSITIONS[before]:
            life.move(to)
            assert life.state is to
        else:
            with pytest.raises(IllegalTransition):
                life.move(to)
            assert life.state is before


@given(moves=moves)
def test_an_end_is_final(moves: list[ContainerState]) -> None:
    life = Lifecycle()
    life.move(ContainerState.DEAD)
    for to in moves:
        with pytest.raises(IllegalTransition):
            life.move(to)
    assert life.has_ended


def test_every_state_is_in_the_table_and_reaches_an_end() -> None:
    assert set(TRANSITIONS) == set(ContainerState)
    assert {ContainerState.EXITED, ContainerState.DEAD} == ENDED
    for state, following in TRANSITIONS.items():
        assert state in ENDED or following >= ENDED
