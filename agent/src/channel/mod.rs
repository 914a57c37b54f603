//! The channel to the host: frames over a virtio-serial port (`docs/protocol.md`).

pub mod frame;
pub mod port;
