//! The guest's memory: what it was booted with, and what virtio-mem adds to it.

pub mod proportions;

use std::time::{Duration, Instant};

use crate::announcements::Announcements;
use crate::failure::{Code, During, Failure, Result};

/// An emulated guest on a busy host takes 0.1 s a GiB, and more where a host is very busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// All memory that the kernel manages, in bytes.
pub fn total_bytes() -> u64 {
    let system = rustix::system::sysinfo();
    system.totalram as u64 * u64::from(system.mem_unit)
}

/// Waits until there are `bytes`. The kernel brings memory online in blocks, and announces each.
pub fn wait_for(bytes: u64) -> Result<()> {
    if total_bytes() >= bytes {
        return Ok(());
    }
    let announcements = Announcements::open().during("listen to the kernel's announcements")?;
    let deadline = Instant::now() + PATIENCE;
    while total_bytes() < bytes {
        if !announcements.wait_until(deadline) {
            let mib = bytes.saturating_sub(total_bytes()) >> 20;
            return Err(Failure::new(Code::AgentFailed, format!("{mib} MiB of the guest's memory did not come")));
        }
    }
    Ok(())
}
