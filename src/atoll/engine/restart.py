"""When a container that has ended is started again: Docker's restart policies and their back-off."""

from dataclasses import dataclass

from atoll.engine.record import ContainerRecord

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 60.0
GOOD_RUN_S = 10.0
"""A run of this length makes the next delay the first one again."""


@dataclass
class Backoff:
    """The delay before the next start: 100 ms, doubled with every run that was short, up to a minute."""

    delay_s: float = 0.0

    def next_delay(self, ran_s: float) -> float:
        """The delay in seconds after a run of `ran_s` seconds."""
        if ran_s >= GOOD_RUN_S:
            self.delay_s = 0.0
        self.delay_s = min(self.delay_s * 2, LONGEST_DELAY_S) if self.delay_s else FIRST_DELAY_S
        return self.delay_s


def restarts_after_exit(record: ContainerRecord) -> bool:
    """Whether the policy wants a container back that has just ended while the engine was there."""
    if record.stopped_by_user:
        return False
    policy = record.config.restart
    if policy.name == "on-failure":
        within = policy.maximum_retries == 0 or record.restart_count < policy.maximum_retries
        return record.exit_code != 0 and within
    return policy.name in ("always", "unless-stopped")


def restarts_with_engine(record: ContainerRecord) -> bool:
    """Whether an engine that starts should start this container, which is not running.

    As in Docker, `always` means so even for a container that the user stopped; what was never started stays so.
    """
    if record.started_at is None:
        return False
    return record.config.restart.name == "always" or restarts_after_exit(record)
