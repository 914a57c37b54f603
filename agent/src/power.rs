//! The guest's end, and the moment before a template is taken of it.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::system::RebootCommand;

use crate::boot;
use crate::device;
use crate::events::timespec;
use crate::failure::{Code, Failure, Result};
use crate::network::Network;

/// How long killed processes are waited for before the power goes.
const PATIENCE: Duration = Duration::from_secs(5);

/// Loads and binds what is there in every clone, and leaves nothing unwritten.
pub fn prepare_template(has_container: bool, network: &mut Network) -> Result<()> {
    if has_container {
        return Err(Failure::new(Code::Conflict, "a guest with a container cannot become a template"));
    }
    boot::load_on_demand();
    device::bind_for_template()?;
    network.park_all()?;
    rustix::fs::sync();
    Ok(())
}

/// Waits for the end of processes that have been killed.
pub fn wait_for<'a>(processes: impl Iterator<Item = &'a OwnedFd>) {
    let deadline = Instant::now() + PATIENCE;
    for pidfd in processes {
        let timeout = timespec(deadline.saturating_duration_since(Instant::now()));
        let _ = rustix::event::poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout)); // the power goes anyway
    }
}

/// Switches the power off: QEMU ends.
pub fn off() {
    rustix::fs::sync();
    if let Err(errno) = rustix::system::reboot(RebootCommand::PowerOff) {
        eprintln!("atoll-agent: cannot switch the power off: {errno}");
    }
}
