//! Shows directories of the host to the guest of one VM: a FUSE server at the other end of the VM's second port.
//!
//! `atoll-share SOCKET (ro|rw):FD...` is started by a container's runtime (`src/atoll/runtime/share.py`) with all
//! descriptors open. Export number n is what the n-th `FD` is; the guest finds it as `/n`. A byte on standard output says
//! that it serves; it ends when the socket does. Whatever the guest sends, there is nothing else that it could reach:
//! see [`sandbox`].

mod confinement;
mod exports;
mod failure;
mod message;
mod negotiation;
mod opening;
mod outbox;
mod sandbox;
mod serve;

use std::io::Write;
use std::process::ExitCode;

use exports::Arguments;
use failure::{During, Result};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let Arguments { socket, exports } = Arguments::parse(std::env::args().skip(1))?;
    let identities = sandbox::enter(&exports)?;
    let socket = sandbox::keep_only(socket, exports).during("close what is not needed")?;
    confinement::give_up_rights().during("give up rights")?;
    let served = serve::prepare(socket, identities)?;
    announce().during("tell the runtime")?;
    served.serve()
}

/// Says that requests are served from now on.
fn announce() -> std::io::Result<()> {
    std::io::stdout().write_all(b"+")?;
    std::io::stdout().flush()
}
