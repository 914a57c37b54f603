//! Resource limits of a container's process.

use rustix::process::{Resource, Rlimit};

use crate::failure::{During, Failure, Result};
use crate::memory::{self, proportions};
use crate::message;

/// What Docker's own daemon runs with, and so its containers: the guest's kernel would give PID 1's.
const DEFAULTS: [(Resource, Option<u64>); 3] =
    [(Resource::Nofile, Some(1 << 20)), (Resource::Nproc, None), (Resource::Core, None)];

fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "as" => Resource::As,
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return None,
    })
}

/// Sets the defaults, then `limits`; needs SYS_RESOURCE.
pub fn apply(limits: &[message::Rlimit]) -> Result<()> {
    // The kernel has set this one when there was less memory.
    let signals = proportions::most_queued_signals(memory::total_bytes());
    for (resource, limit) in DEFAULTS.into_iter().chain([(Resource::Sigpending, Some(signals))]) {
        rustix::process::setrlimit(resource, Rlimit { current: limit, maximum: limit }).during("set the limits")?;
    }
    for limit in limits {
        let name = &limit.name;
        let resource = resource(name).ok_or_else(|| Failure::start(format!("unknown resource limit: {name}")))?;
        let bound = |value: u64| (value != u64::MAX).then_some(value);
        let new = Rlimit { current: bound(limit.soft), maximum: bound(limit.hard) };
        rustix::process::setrlimit(resource, new).during(format_args!("set the limit {name}"))?;
    }
    Ok(())
}
