//! The init of `--init`: PID 1 of the container, in the image's place. It starts the command, forwards
//! signals to it, and reaps what others leave behind; it ends as the command ends.

use std::ffi::CString;
use std::os::unix::ffi::OsStringExt;

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus};

const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;
/// Signals of a fault in this very process: blocked, they would be lost.
const FAULTS: [libc::c_int; 7] =
    [libc::SIGFPE, libc::SIGILL, libc::SIGSEGV, libc::SIGBUS, libc::SIGABRT, libc::SIGTRAP, libc::SIGSYS];

/// `docker-init -- command arguments`; returns the exit code.
pub fn run() -> i32 {
    let command: Vec<CString> =
        std::env::args_os().skip(2).filter_map(|argument| CString::new(argument.into_vec()).ok()).collect();
    // SAFETY: both sets are filled before they are read.
    let (all, before) = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        for fault in FAULTS {
            libc::sigdelset(&raw mut all, fault);
        }
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        (all, before)
    };
    // SAFETY: this process has one thread, so the child may do as it likes.
    match unsafe { libc::fork() } {
        0 => become_command(&command, &before),
        child => match Pid::from_raw(child) {
            Some(child) => look_after(child, &all),
            None => NOT_EXECUTABLE,
        },
    }
}

fn become_command(command: &[CString], signals: &libc::sigset_t) -> i32 {
    let pointers: Vec<_> = command.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect();
    let Some(program) = command.first() else { return NOT_FOUND };
    // SAFETY: the array ends with a null pointer, and its strings outlive the call.
    unsafe {
        libc::setpgid(0, 0);
        // With a terminal the command is in its foreground; without one this fails. The change itself would
        // stop us, but for the signal being blocked.
        libc::tcsetpgrp(0, libc::getpgrp());
        libc::signal(libc::SIGPIPE, libc::SIG_DFL); // Rust ignores it
        libc::sigprocmask(libc::SIG_SETMASK, signals, std::ptr::null_mut());
        libc::execvp(program.as_ptr(), pointers.as_ptr());
    }
    let error = std::io::Error::last_os_error();
    eprintln!("docker-init: {}: {error}", program.to_string_lossy());
    if Errno::from_io_error(&error) == Some(Errno::NOENT) { NOT_FOUND } else { NOT_EXECUTABLE }
}

fn look_after(child: Pid, signals: &libc::sigset_t) -> i32 {
    loop {
        // SAFETY: the set is a valid one, and where the signal came from is not asked for.
        match unsafe { libc::sigwaitinfo(signals, std::ptr::null_mut()) } {
            libc::SIGCHLD => {
                if let Some(status) = reap(child) {
                    let killed = || status.terminating_signal().map(|signal| 128 + signal);
                    return status.exit_status().or_else(killed).unwrap_or(NOT_EXECUTABLE);
                }
            }
            signal if signal > 0 => {
                // SAFETY: touches no memory; a command that has just ended needs no signal.
                unsafe { libc::kill(child.as_raw_nonzero().get(), signal) };
            }
            _ => {} // interrupted
        }
    }
}

/// Collects all that have ended; the status of `child` if it is among them.
fn reap(child: Pid) -> Option<WaitStatus> {
    let mut ended = None;
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid == child {
            ended = Some(status);
        }
    }
    ended
}
