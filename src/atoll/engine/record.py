"""What the engine remembers of a container, and the table it is in.

A record is frozen: the container's actor makes the next one with `msgspec.structs.replace` and saves it before it
answers anybody, so that `kill -9` of the engine loses nothing that a client was told.
"""

from datetime import datetime

import msgspec
from msgspec import Struct

from atoll.model.container import ContainerConfig, ContainerState
from atoll.model.network import Attachment, PortBinding
from atoll.store import Database

SCHEMA = (
    """
    CREATE TABLE container (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        record BLOB NOT NULL
    ) STRICT
    """,
)


class ContainerRecord(Struct, frozen=True, kw_only=True):
    """One container: what was asked for, and what became of it.

    `pid` is QEMU's on the host, 0 when there is none. `stopped_by_user` keeps a restart policy quiet; `restarting`
    says that the policy will start it again; `vm_uid` is the user that QEMU runs as, None when the engine is not root.
    `attachments` are its places on networks, by slot; `published` are its ports with those of the host that they have
    while it runs. `is_rewired`: it is being put on other networks while it runs, and its guest may not know it yet.
    """

    id: str
    name: str
    created_at: datetime
    config: ContainerConfig
    vm_uid: int | None = None
    state: ContainerState = ContainerState.CREATED
    pid: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int = 0
    error: str = ""
    out_of_memory: bool = False
    restart_count: int = 0
    restarting: bool = False
    stopped_by_user: bool = False
    attachments: tuple[Attachment, ...] = ()
    published: tuple[PortBinding, ...] = ()
    is_rewired: bool = False

    @property
    def has_vm(self) -> bool:
        """Whether a runtime should be there for it."""
        return self.state in _WITH_VM

    @property
    def is_running(self) -> bool:
        """Docker's `State.Running`: paused and restarting containers count."""
        return self.restarting or self.state in _RUNNING


_RUNNING = {ContainerState.RUNNING, ContainerState.PAUSED, ContainerState.STOPPING}
_WITH_VM = _RUNNING | {ContainerState.STARTING}

_decoder = msgspec.json.Decoder(ContainerRecord)


class RecordTable:
    """The table of records."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.migrate(SCHEMA)

    def all(self) -> list[ContainerRecord]:
        """Every record."""
        return [_decoder.decode(row["record"]) for row in self._database.query("SELECT record FROM container")]

    def insert(self, record: ContainerRecord) -> None:
        """Add a record; `sqlite3.IntegrityError` when its id or name is there already."""
        self._database.execute(
            "INSERT INTO container VALUES (?, ?, ?)", (record.id, record.name, msgspec.json.encode(record))
        )

    def update(self, record: ContainerRecord) -> None:
        """Replace the record that has the same id."""
        self._database.execute(
            "UPDATE container SET name = ?, record = ? WHERE id = ?",
            (record.name, msgspec.json.encode(record), record.id),
        )

    def delete(self, container_id: str) -> None:
        """Forget a container."""
        self._database.execute("DELETE FROM container WHERE id = ?", (container_id,))
