//! INIT: what guest and server agree on. The passthrough asks for next to nothing, so its reply is completed here.

use fuse_backend_rs::abi::fuse_abi::FsOptions;

use crate::message::{DATA, IN_HEADER, OUT_HEADER, field, set_field};

/// `struct fuse_init_in` and `struct fuse_init_out` of <linux/fuse.h>.
const IN_FLAGS: usize = IN_HEADER + 12;
const OUT_FLAGS: usize = OUT_HEADER + 12;
const OUT_MAX_WRITE: usize = OUT_HEADER + 20;
/// Its upper half is `map_alignment`, of DAX, which is not used.
const OUT_MAX_PAGES: usize = OUT_HEADER + 28;
const PAGE: usize = 4096;

/// Asked for if the guest's kernel has it. No lock is passed on: they hold among the processes of one guest.
fn wanted() -> FsOptions {
    FsOptions::ASYNC_READ
        | FsOptions::ATOMIC_O_TRUNC
        | FsOptions::BIG_WRITES
        | FsOptions::PARALLEL_DIROPS
        | FsOptions::MAX_PAGES
        // A file that has changed on the host is read anew.
        | FsOptions::AUTO_INVAL_DATA
}

/// Completes the `reply` to the INIT `request`.
pub fn complete(request: &[u8], reply: &mut [u8]) {
    if field(reply, 4) != 0 {
        return; // an error
    }
    let agreed = field(request, IN_FLAGS) & wanted().bits() as u32;
    set_field(reply, OUT_FLAGS, field(reply, OUT_FLAGS) | agreed);
    set_field(reply, OUT_MAX_WRITE, DATA as u32);
    set_field(reply, OUT_MAX_PAGES, (DATA / PAGE) as u32);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_guest_can_do_is_agreed_on() {
        let mut request = vec![0; IN_HEADER + 16];
        let offered = FsOptions::BIG_WRITES | FsOptions::WRITEBACK_CACHE;
        set_field(&mut request, IN_FLAGS, offered.bits() as u32);
        let mut reply = vec![0; OUT_HEADER + 64];
        complete(&request, &mut reply);
        assert_eq!(field(&reply, OUT_FLAGS), FsOptions::BIG_WRITES.bits() as u32);
        assert_eq!((field(&reply, OUT_MAX_WRITE), field(&reply, OUT_MAX_PAGES)), (256 << 10, 64));
    }
}
