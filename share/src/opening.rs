//! What makes a file that is opened be read as it is now, and to its end.
//!
//! The guest's kernel empties its cache of a file's content when it opens the file, but not of its size: of one that has
//! grown on the host meanwhile it would read the first part. So each OPEN has it forget the attributes. And it reads
//! nothing of a file that says it is empty, as those of /proc do: who reads one asks the server each time.

use crate::message::{IN_HEADER, OUT_HEADER, field, set_field};

/// `FUSE_NOTIFY_INVAL_INODE` of <linux/fuse.h>
const INVALIDATE: u32 = 2;
/// With `struct fuse_notify_inval_inode_out`.
const NOTICE: usize = OUT_HEADER + 24;

/// The message, which is no reply, to forget the attributes of `node`, and nothing of its content.
pub fn doubt(node: u64) -> [u8; NOTICE] {
    let mut notice = [0; NOTICE];
    set_field(&mut notice, 0, NOTICE as u32);
    set_field(&mut notice, 4, INVALIDATE);
    set_field(&mut notice, OUT_HEADER, node as u32);
    set_field(&mut notice, OUT_HEADER + 4, (node >> 32) as u32);
    // A range that begins before the file is none of its content.
    set_field(&mut notice, OUT_HEADER + 8, u32::MAX);
    set_field(&mut notice, OUT_HEADER + 12, u32::MAX);
    notice
}

/// `FOPEN_DIRECT_IO`, in `struct fuse_open_out` behind the handle.
const DIRECT: u32 = 1;
const OUT_FLAGS: usize = OUT_HEADER + 8;

/// Whether this OPEN `request` is only for reading: such a file is mapped by nobody who would write through the map.
pub fn only_reads(request: &[u8]) -> bool {
    field(request, IN_HEADER) & libc::O_ACCMODE as u32 == libc::O_RDONLY as u32
}

/// Has the kernel pass every read of the file on, whatever its size is.
pub fn bypass_cache(reply: &mut [u8]) {
    if field(reply, 4) == 0 {
        set_field(reply, OUT_FLAGS, field(reply, OUT_FLAGS) | DIRECT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_that_is_an_error_stays_as_it_is() {
        let mut reply = vec![0; OUT_HEADER + 16];
        bypass_cache(&mut reply);
        assert_eq!(field(&reply, OUT_FLAGS), DIRECT);
        let mut error = vec![1; OUT_HEADER];
        bypass_cache(&mut error);
        assert_eq!(error, vec![1; OUT_HEADER]);
    }

    #[test]
    fn attributes_are_doubted_and_content_is_not() {
        let notice = doubt(0x1_0000_0005);
        assert_eq!(notice[..16], [[40, 0, 0, 0], [2, 0, 0, 0], [0; 4], [0; 4]].concat());
        assert_eq!(notice[16..24], 0x1_0000_0005_u64.to_le_bytes());
        assert_eq!(notice[24..32], (-1_i64).to_le_bytes());
    }
}
