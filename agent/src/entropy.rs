//! What a guest cannot know of itself: randomness that no other guest has, and the time.

use std::os::fd::AsRawFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::time::{ClockId, Timespec};

/// <linux/random.h>
const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;
const ENTROPY_MAX: usize = 512;

/// `struct rand_pool_info`
#[repr(C)]
struct Pool {
    entropy_bits: libc::c_int,
    length: libc::c_int,
    bytes: [u8; ENTROPY_MAX],
}

/// Mixes `entropy` into the kernel's random numbers, credits it, and has them start anew from it.
pub fn mix(entropy: &[u8]) -> rustix::io::Result<()> {
    let device = rustix::fs::open("/dev/urandom", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    for part in entropy.chunks(ENTROPY_MAX) {
        let mut pool = Pool { entropy_bits: part.len() as i32 * 8, length: part.len() as i32, bytes: [0; ENTROPY_MAX] };
        if let Some(bytes) = pool.bytes.get_mut(..part.len()) {
            bytes.copy_from_slice(part);
        }
        // SAFETY: the structure is what the request takes, with no more bytes announced than it has.
        check(unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, &raw const pool) })?;
    }
    // SAFETY: the request takes no argument.
    check(unsafe { libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG) })
}

/// Sets the wall clock to `clock_ns`, nanoseconds since the epoch.
pub fn set_clock(clock_ns: u64) -> rustix::io::Result<()> {
    const NS_PER_S: u64 = 1_000_000_000;
    let time = Timespec { tv_sec: (clock_ns / NS_PER_S) as i64, tv_nsec: (clock_ns % NS_PER_S) as i64 };
    rustix::time::clock_settime(ClockId::Realtime, time)
}

fn check(result: libc::c_int) -> rustix::io::Result<()> {
    match result {
        -1 => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
        _ => Ok(()),
    }
}
