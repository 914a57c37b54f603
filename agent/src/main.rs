//! The agent: PID 1 of a guest, and the only program in it besides the image's.
//!
//! Boots the guest, opens the channel to the host, and serves its requests. It must not end: that
//! would be a panic of the guest's kernel. The same binary is the init of `--init` in the container.

mod agent;
mod announcements;
mod archive;
mod boot;
mod channel;
mod container;
mod device;
mod entropy;
mod events;
mod failure;
mod init;
mod memory;
mod message;
mod network;
mod power;
mod process;
mod processes;
mod statistics;
mod stopwatch;
mod streams;
mod verity;

use std::process::ExitCode;

/// The agent's name in the rehearsal's image (`src/atoll/template/rehearsal.py`).
const REHEARSAL: &str = "/rehearsal";

fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    if name == process::launch::INIT {
        return ExitCode::from(init::run() as u8);
    }
    if name == REHEARSAL {
        // The container that a guest rehearses with: it does what every program does, and ends.
        let copied = std::io::copy(&mut std::io::stdin(), &mut std::io::stdout());
        return if copied.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if !rustix::process::getpid().is_init() {
        eprintln!("atoll-agent: this is the first process of an Atoll guest, not a command");
        return ExitCode::FAILURE;
    }
    if let Err(failure) = serve() {
        eprintln!("atoll-agent: {failure}");
    }
    // Without its agent a guest is of no use; QEMU's end tells the host.
    power::off();
    ExitCode::FAILURE
}

fn serve() -> failure::Result<()> {
    let (port, modules) = boot::boot()?;
    let mut agent = agent::Agent::new(port)?;
    modules.finish()?;
    agent.run()
}
