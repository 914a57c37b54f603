//! Pseudo-terminals, allocated in the container's own devpts.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::message;

const DEVPTS_MAGIC: rustix::fs::FsWord = 0x1cd1;

pub struct Pair {
    pub master: OwnedFd,
    pub slave: OwnedFd,
}

/// A new terminal in the devpts at /dev/pts of this process's root.
pub fn open(size: message::Terminal) -> rustix::io::Result<Pair> {
    // The container may have put anything there: only a devpts will do.
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let master = rustix::fs::openat2(CWD, "/dev/pts/ptmx", flags, Mode::empty(), resolve)?;
    if rustix::fs::fstatfs(&master)?.f_type != DEVPTS_MAGIC {
        return Err(Errno::NOTTY);
    }
    rustix::pty::unlockpt(&master)?;
    let slave =
        rustix::pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    resize(master.as_fd(), size.rows, size.columns)?;
    Ok(Pair { master, slave })
}

pub fn resize(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> rustix::io::Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size)
}
