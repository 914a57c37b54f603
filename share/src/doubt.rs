//! What makes a file that is opened be read as it is now, although its attributes may be remembered for a while.
//!
//! The guest's kernel empties its cache of a file's content when it opens the file, but not of its size: of one that has
//! grown on the host meanwhile it would read the first part. So each OPEN has it forget the attributes.

use crate::message::{OUT_HEADER, set_field};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_doubted_and_content_is_not() {
        let notice = doubt(0x1_0000_0005);
        assert_eq!(notice[..16], [[40, 0, 0, 0], [2, 0, 0, 0], [0; 4], [0; 4]].concat());
        assert_eq!(notice[16..24], 0x1_0000_0005_u64.to_le_bytes());
        assert_eq!(notice[24..32], (-1_i64).to_le_bytes());
    }
}
