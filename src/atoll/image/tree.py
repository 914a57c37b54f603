"""The files of one layer, placed from its tar entries as Docker would unpack them, in memory only.

Nothing here touches a host path, so no name and no link in an archive can lead anywhere but into this tree: an absolute
path begins at its root, and a symbolic link on the way leads to a place in it.
Whiteouts become what overlayfs wants (a character device 0:0, the xattr trusted.overlay.opaque):
https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts
"""

import stat
from array import array
from dataclasses import dataclass

from atoll.errors import InvalidRequest
from atoll.image.limits import Limits
from atoll.image.tarstream import Entry, Kind, printable

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_OPAQUE_XATTR = (b"trusted.overlay.opaque", b"y")
_OVERLAY_XATTRS = (b"trusted.overlay.", b"user.overlay.")
_LONGEST_PATH = 4096
_LONGEST_NAME = 255
_LONGEST_TARGET = 4095
_LONGEST_XATTR_NAME = 255
_LONGEST_XATTR = 65536
_MOST_LINKS = 40
"""Symbolic links that are followed to one place, as Linux does."""
_NODE_BYTES = 512
"""Roughly what a node costs us, without its names and xattrs."""

_TYPES = {
    Kind.FILE: stat.S_IFREG,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.CHARACTER: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.FIFO: stat.S_IFIFO,
}

Xattrs = tuple[tuple[bytes, bytes], ...]


@dataclass(slots=True)
class Content:
    """Where a file's data went: its first byte in the squashfs, and one word a block as squashfs wants them."""

    start: int
    size_bytes: int
    hole_bytes: int
    blocks: "array[int]"


class Node:
    """A file of any type; hard links share one node. `number` and `position` belong to who writes the tree out."""

    __slots__ = (
        "children",
        "content",
        "gid",
        "links",
        "mode",
        "mtime_s",
        "number",
        "position",
        "rdev",
        "target",
        "uid",
        "xattrs",
    )

    def __init__(self, mode: int, uid: int, gid: int, mtime_s: int, xattrs: Xattrs = ()) -> None:
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.mtime_s = mtime_s
        self.xattrs = xattrs
        self.links = 1
        self.children: dict[bytes, Node] | None = {} if stat.S_ISDIR(mode) else None
        self.target = b""
        self.rdev = 0
        self.content: Content | None = None
        self.number = 0
        self.position = 0


class Tree:
    """Takes the entries of a layer's tar in order; `root` is the tree so far."""

    def __init__(self, limits: Limits) -> None:
        self.root = _directory(0)
        self.entries = 0
        self._limits = limits
        self._metadata_bytes = 0
        self._xattrs: dict[Xattrs, Xattrs] = {}

    def place(self, entry: Entry) -> Node | None:
        """Put `entry` where it belongs and return its node; None for a whiteout, which leaves no node of its own.

        Raises `InvalidRequest` for a path or link that leads out of the layer, and beyond the limits.
        """
        self.entries += 1
        self._count(_NODE_BYTES + len(entry.path) + len(entry.link))
        parts = _parts(entry.path, entry)
        if not parts:
            return self._place_root(entry)
        name = parts.pop()
        parent = self._walk(parts, entry, make=True)
        assert parent is not None
        if name.startswith(_WHITEOUT):
            self._white_out(parent, name, entry)
            return None
        node = self._link(entry) if entry.kind is Kind.HARD_LINK else self._node(entry)
        assert parent.children is not None
        old = parent.children.get(name)
        if old is not None:
            if old is node:
                return node
            if old.children is not None and node.children is not None:
                # Told twice: the later attributes hold, what is inside stays.
                node.children = old.children
                node.xattrs += tuple(xattr for xattr in old.xattrs if xattr == _OPAQUE_XATTR)
            elif old.children is None and node.children is not None and _is_whiteout(old):
                # The whiteout of a lower file, then a directory of that name: nothing of the lower one shows.
                node.xattrs += (_OPAQUE_XATTR,)
            old.links -= 1
        parent.children[name] = node
        return node

    def _place_root(self, entry: Entry) -> Node:
        if entry.kind is not Kind.DIRECTORY:
            raise InvalidRequest(f"the archive is malformed: its root is a {entry.kind.value}, not a directory")
        root = self._node(entry)
        root.children = self.root.children
        root.xattrs += tuple(xattr for xattr in self.root.xattrs if xattr == _OPAQUE_XATTR)
        self.root = root
        return root

    def _walk(self, parts: list[bytes], entry: Entry, *, make: bool) -> Node | None:
        """The directory that `parts` name, by symbolic links of this layer if need be; above the root is the root.

        What is missing is made, or else the answer is None. So does containerd, and so does Docker, but for a link to
        what is not in the layer, which it refuses.
        """
        trail = [self.root]
        waiting = parts[::-1]
        links = followed_bytes = 0
        while waiting:
            part = waiting.pop()
            if part == b"..":  # of a link: paths have none
                del trail[max(1, len(trail) - 1) :]
                continue
            children = trail[-1].children
            assert children is not None
            child = children.get(part)
            if child is not None and child.target:
                links += 1
                followed_bytes += len(child.target)
                if links > _MOST_LINKS or followed_bytes > _LONGEST_PATH:
                    raise InvalidRequest(f"the archive is refused: {_described(entry)}: its path is a loop of links")
                if child.target.startswith(b"/"):
                    del trail[1:]
                waiting += [name for name in reversed(child.target.split(b"/")) if name not in (b"", b".")]
                continue
            if child is None or child.children is None:
                if not make:
                    return None
                child = children[part] = self._missing_directory(part, child, entry)
            trail.append(child)
        return trail[-1]

    def _missing_directory(self, name: bytes, there: Node | None, entry: Entry) -> Node:
        """A directory that no entry has told of, in the place of nothing or of a whiteout."""
        if there is not None and not _is_whiteout(there):
            raise InvalidRequest(
                f"the archive is refused: {_described(entry)}: its path goes through {printable(name)},"
                " which is a file in the same archive"
            )
        _check_name(name, entry)
        self._count(_NODE_BYTES + len(name))
        made = _directory(entry.mtime_s)
        if there is not None:
            made.xattrs = (_OPAQUE_XATTR,)
        return made

    def _white_out(self, parent: Node, name: bytes, entry: Entry) -> None:
        assert parent.children is not None
        if name == _OPAQUE:
            if _OPAQUE_XATTR not in parent.xattrs:
                parent.xattrs += (_OPAQUE_XATTR,)
            return
        if name.startswith(_WHITEOUT * 2):
            return  # bookkeeping of aufs
        hidden = name.removeprefix(_WHITEOUT)
        if hidden in (b"", b".", b".."):
            raise InvalidRequest(f"the archive is refused: {printable(entry.path)} is a whiteout of nothing")
        there = parent.children.get(hidden)
        if there is None:
            parent.children[hidden] = Node(stat.S_IFCHR, 0, 0, entry.mtime_s)
        elif there.children is not None and _OPAQUE_XATTR not in there.xattrs:
            # It hides what lower layers have, not what this one has.
            there.xattrs += (_OPAQUE_XATTR,)

    def _node(self, entry: Entry) -> Node:
        node = Node(_TYPES[entry.kind] | entry.mode, entry.uid, entry.gid, entry.mtime_s, self._kept_xattrs(entry))
        if entry.kind is Kind.SYMLINK:
            if not entry.link or len(entry.link) > _LONGEST_TARGET or b"\0" in entry.link:
                raise InvalidRequest(f"the archive is malformed: {printable(entry.path)} links to nothing that can be")
            node.mode = stat.S_IFLNK | 0o777
            node.target = entry.link
        elif entry.kind in (Kind.CHARACTER, Kind.BLOCK):
            if not (0 <= entry.major < 1 << 12 and 0 <= entry.minor < 1 << 20):
                raise InvalidRequest(f"the archive is malformed: {printable(entry.path)} has no possible device number")
            node.rdev = (entry.minor & 0xFF) | (entry.major << 8) | ((entry.minor & ~0xFF) << 12)
        return node

    def _link(self, entry: Entry) -> Node:
        """The node that a hard link names, which must be in this layer already."""
        parts = _parts(entry.link, entry)
        name = parts.pop() if parts else b""
        directory = self._walk(parts, entry, make=False)
        node = directory.children.get(name) if directory is not None and directory.children is not None else None
        if node is None or node.children is not None or _is_whiteout(node):
            raise InvalidRequest(
                f"the archive is refused: hard link {printable(entry.path)} leads to {printable(entry.link)},"
                " which is no file that comes before it in the archive"
            )
        node.links += 1
        return node

    def _kept_xattrs(self, entry: Entry) -> Xattrs:
        """Those that squashfs can hold, and that do not speak to overlayfs in our place."""
        if not entry.xattrs:
            return ()
        kept: list[tuple[bytes, bytes]] = []
        for name, value in sorted(entry.xattrs.items()):
            if not name.startswith((b"user.", b"trusted.", b"security.")) or name.startswith(_OVERLAY_XATTRS):
                continue
            if len(name) > _LONGEST_XATTR_NAME or len(value) > _LONGEST_XATTR or b"\0" in name:
                raise InvalidRequest(f"the archive is malformed: {printable(entry.path)} has an impossible xattr")
            kept.append((name, value))
        xattrs = tuple(kept)
        if xattrs not in self._xattrs:
            self._count(sum(len(name) + len(value) for name, value in xattrs))
        return self._xattrs.setdefault(xattrs, xattrs)

    def _count(self, size: int) -> None:
        self._metadata_bytes += size
        if self._metadata_bytes > self._limits.layer_metadata_bytes:
            raise InvalidRequest(
                f"the archive is refused: names and attributes of its {self.entries} entries need more than"
                f" {self._limits.layer_metadata_bytes >> 20} MiB of memory"
            )


def _is_whiteout(node: Node) -> bool:
    return stat.S_ISCHR(node.mode) and node.rdev == 0


def _directory(mtime_s: int) -> Node:
    return Node(stat.S_IFDIR | 0o755, 0, 0, mtime_s)


def _parts(path: bytes, entry: Entry) -> list[bytes]:
    """The names in `path`, from the layer's root; `.` and empty ones do not count."""
    if len(path) > _LONGEST_PATH or b"\0" in path:
        raise InvalidRequest(
            f"the archive is refused: {_described(entry)}: the path is longer than {_LONGEST_PATH} bytes or has a NUL"
        )
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    for part in parts:
        if part == b"..":
            raise InvalidRequest(
                f"the archive is refused: {_described(entry)}: the path leads out of the layer with '..'"
            )
        _check_name(part, entry)
    return parts


def _check_name(name: bytes, entry: Entry) -> None:
    if len(name) > _LONGEST_NAME:
        raise InvalidRequest(
            f"the archive is refused: {_described(entry)}: a name is longer than {_LONGEST_NAME} bytes"
        )


def _described(entry: Entry) -> str:
    if entry.kind is Kind.HARD_LINK:
        return f"hard link {printable(entry.path)} to {printable(entry.link)}"
    return f"entry {printable(entry.path)}"
