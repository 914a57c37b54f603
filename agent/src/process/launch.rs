//! The child's way to execve(2), once it is in the container's namespaces and root.
//!
//! From here on only the child runs. Everything that the agent has open is closed first: a path of
//! the image such as /proc/self/fd/7 must lead nowhere (CVE-2024-21626).

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::capability::Capabilities;
use super::report::Reporter;
use super::self_kill::SelfKills;
use super::{command, rlimit, terminal, user};
use crate::device::write_attribute;
use crate::failure::{During, Failure, Result, reason};
use crate::message;

/// Where `--init` finds the agent's binary, in its other role.
pub const INIT: &str = "/sbin/docker-init";
const REPORT: i32 = 3;

/// The child's ends of its standard streams; `None` is /dev/null.
#[derive(Default)]
pub struct Ends(pub [Option<OwnedFd>; 3]);

pub struct Launch<'a> {
    pub process: &'a message::Process,
    /// Run under the init of `--init`.
    pub init: bool,
    /// The container's first process: its terminal is /dev/console, too.
    pub first: bool,
}

/// Puts the streams on 0 to 2 and the reporter on 3; closes all else.
pub fn keep_only(ends: Ends, reporter: &Reporter) -> Result<Reporter> {
    let what = "set up the standard streams";
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).during(what)?;
    for (number, end) in ends.0.iter().enumerate() {
        let source = end.as_ref().map_or(null.as_fd(), |end| end.as_fd());
        duplicate(source, number as i32, 0).during(what)?;
    }
    drop((null, ends));
    duplicate(reporter.as_fd(), REPORT, libc::O_CLOEXEC).during(what)?;
    // SAFETY: descriptor 3 is owned from here on; those above belong to the agent's copy in this
    // process, which nothing uses any more.
    unsafe {
        libc::close_range(REPORT as u32 + 1, u32::MAX, 0);
        Ok(Reporter::from_descriptor(OwnedFd::from_raw_fd(REPORT)))
    }
}

fn duplicate(source: BorrowedFd<'_>, number: i32, flags: i32) -> rustix::io::Result<()> {
    if source.as_raw_fd() == number {
        return Ok(()); // has its flags from socketpair(2)
    }
    // SAFETY: what `number` was before is not used any more; sources have higher numbers.
    match unsafe { libc::dup3(source.as_raw_fd(), number, flags) } {
        -1 => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::BADF)),
        _ => Ok(()),
    }
}

/// Becomes the process; returns only to say why it cannot.
pub fn launch(launch: &Launch<'_>, reporter: &Reporter) -> Result<Infallible> {
    let process = launch.process;
    let capabilities = Capabilities::from_names(&process.capabilities)?;
    rustix::process::setsid().during("start a session")?;
    if let Some(size) = process.terminal {
        take_terminal(size, launch.first, reporter)?;
    }
    let user = user::look_up(&process.user, &process.groups)?;
    write_attribute("/proc/self/oom_score_adj", process.oom_score_adj.to_string().as_bytes())
        .during("set the OOM score")?;
    rlimit::apply(&process.rlimits)?;
    give_streams(user.uid)?;
    rustix::process::chdir(&process.working_dir).map_err(|errno| {
        Failure::start(format!("chdir to cwd ({:?}) failed: {}", process.working_dir, reason(errno)))
    })?;
    if launch.first && !launch.init {
        let listener = SelfKills::listen().map_err(|error| Failure::start(format!("seccomp: {error}")))?;
        reporter.self_kills(listener.as_fd()).during("hand over the seccomp listener")?;
    }
    capabilities.bound()?;
    switch_user(&user, capabilities)?;
    if process.no_new_privileges {
        rustix::thread::set_no_new_privs(true).during("set no_new_privs")?;
    }
    let mut environment = process.environment.clone();
    if !environment.iter().any(|variable| variable.starts_with("HOME=")) {
        environment.push(format!("HOME={}", user.home));
    }
    let name = process.arguments.first().ok_or_else(|| Failure::start("no command specified"))?;
    let path = command::find(name, &environment)?;
    if launch.init {
        let arguments = [INIT, "--"].into_iter().chain(process.arguments.iter().map(String::as_str));
        return execute(&PathBuf::from(INIT), arguments, &environment);
    }
    execute(&path, process.arguments.iter().map(String::as_str), &environment)
}

fn take_terminal(size: message::Terminal, is_console: bool, reporter: &Reporter) -> Result<()> {
    let pair = terminal::open(size).during("allocate a terminal")?;
    if is_console {
        crate::container::mount::console(pair.slave.as_fd())?;
    }
    // SAFETY: TIOCSCTTY takes an integer.
    if unsafe { libc::ioctl(pair.slave.as_raw_fd(), libc::TIOCSCTTY, 0) } != 0 {
        return Err(Failure::start("cannot take control of the terminal"));
    }
    for number in 0..3 {
        duplicate(pair.slave.as_fd(), number, 0).during("set up the terminal")?;
    }
    reporter.terminal(pair.master.as_fd()).during("hand over the terminal")
}

/// Lets the user open /dev/stdout and the like; /dev/null stays root's.
fn give_streams(uid: u32) -> Result<()> {
    if uid == 0 {
        return Ok(());
    }
    let null = rustix::fs::stat("/dev/null").map(|status| status.st_rdev).unwrap_or_default();
    for stream in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        let status = rustix::fs::fstat(stream).during("look at the standard streams")?;
        if status.st_rdev != null || status.st_rdev == 0 {
            rustix::fs::fchown(stream, Some(Uid::from_raw(uid)), None).during("hand over the standard streams")?;
        }
    }
    Ok(())
}

fn switch_user(user: &user::User, capabilities: Capabilities) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    rustix::thread::set_keep_capabilities(true).during("keep the capabilities")?;
    rustix::thread::set_thread_groups(&groups).during("set the groups")?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).during("set the group")?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).during("set the user")?;
    rustix::thread::set_keep_capabilities(false).during("keep the capabilities")?;
    capabilities.apply(user.uid)
}

fn execute<'a>(path: &Path, arguments: impl Iterator<Item = &'a str>, environment: &[String]) -> Result<Infallible> {
    let text = |value: &str| CString::new(value).map_err(|_| Failure::start("a command cannot contain a zero byte"));
    let file = CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Failure::start("a command cannot contain a zero byte"))?;
    let arguments: Vec<CString> = arguments.map(text).collect::<Result<_>>()?;
    let environment: Vec<CString> = environment.iter().map(|value| text(value)).collect::<Result<_>>()?;
    let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
        texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argument_pointers, environment_pointers) = (pointers(&arguments), pointers(&environment));
    // SAFETY: both arrays end with a null pointer, and the strings outlive the call. Rust ignores
    // SIGPIPE; the process shall have it as everybody has.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::execve(file.as_ptr(), argument_pointers.as_ptr(), environment_pointers.as_ptr());
    }
    let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::NOENT);
    Err(command::failure(path, errno))
}
