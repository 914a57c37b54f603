//! Processes: how one is started, and what the agent knows of it while it lives.

pub mod capability;
pub mod command;
pub mod launch;
pub mod report;
pub mod rlimit;
pub mod self_kill;
pub mod spawn;
pub mod table;
pub mod terminal;
pub mod user;
