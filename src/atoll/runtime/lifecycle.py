"""The life of a container: which state may follow which. The runtime's actor is the only one that moves."""

from atoll.model.container import ContainerState

_S = ContainerState

# `exited`: its process ended, or it never had one and was asked to end. `dead`: the host's side failed (VM, agent).
TRANSITIONS: dict[ContainerState, frozenset[ContainerState]] = {
    _S.CREATED: frozenset({_S.STARTING, _S.EXITED, _S.DEAD}),
    _S.STARTING: frozenset({_S.RUNNING, _S.STOPPING, _S.EXITED, _S.DEAD}),
    _S.RUNNING: frozenset({_S.PAUSED, _S.STOPPING, _S.EXITED, _S.DEAD}),
    _S.PAUSED: frozenset({_S.RUNNING, _S.STOPPING, _S.EXITED, _S.DEAD}),
    _S.STOPPING: frozenset({_S.EXITED, _S.DEAD}),
    _S.EXITED: frozenset(),
    _S.DEAD: frozenset(),
}

ENDED = frozenset(state for state, following in TRANSITIONS.items() if not following)


class IllegalTransition(Exception):
    """A state was to follow one that it cannot follow: a defect of ours, never a user's."""


class Lifecycle:
    """The state of one container."""

    def __init__(self) -> None:
        self._state = ContainerState.CREATED

    @property
    def state(self) -> ContainerState:
        """The state now."""
        return self._state

    @property
    def has_ended(self) -> bool:
        """Whether no other state can follow."""
        return self._state in ENDED

    def move(self, to: ContainerState) -> None:
        """Change the state; raises `IllegalTransition` when `to` may not follow the present one."""
        if to not in TRANSITIONS[self._state]:
            raise IllegalTransition(f"a container that is {self._state.value} cannot become {to.value}")
        self._state = to
