//! What is to be shown, as the command line says it.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::io::FdFlags;

use crate::failure::{Failure, Result};

/// A file or directory of the host, by a descriptor that was opened with `O_PATH`.
pub struct Export {
    pub descriptor: OwnedFd,
    pub read_only: bool,
}

pub struct Arguments {
    pub socket: OwnedFd,
    pub exports: Vec<Export>,
}

impl Arguments {
    /// Takes over the descriptors that the arguments name.
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Arguments> {
        let socket = arguments.next().and_then(|word| adopt(&word)).ok_or_else(usage)?;
        let exports = arguments.map(|word| {
            let (mode, number) = word.split_once(':')?;
            let read_only = match mode {
                "ro" => true,
                "rw" => false,
                _ => return None,
            };
            Some(Export { descriptor: adopt(number)?, read_only })
        });
        let exports: Option<Vec<Export>> = exports.collect();
        Ok(Arguments { socket, exports: exports.ok_or_else(usage)? })
    }
}

fn usage() -> Failure {
    Failure("this is a part of Atoll's runtime: atoll-share SOCKET (ro|rw):FD..., with all descriptors open".into())
}

fn adopt(number: &str) -> Option<OwnedFd> {
    let number: RawFd = number.parse().ok().filter(|&number| number > 2)?;
    // SAFETY: whoever started us has opened it for us; a number that is not open is found out at once.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    match rustix::io::fcntl_setfd(&descriptor, FdFlags::CLOEXEC) {
        Ok(()) => Some(descriptor),
        Err(_) => {
            std::mem::forget(descriptor);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;

    fn opened() -> String {
        std::fs::File::open("/").unwrap().into_raw_fd().to_string()
    }

    fn parse(words: &[String]) -> Result<Arguments> {
        Arguments::parse(words.iter().cloned())
    }

    #[test]
    fn exports_are_numbered_in_the_order_of_the_command_line() {
        let arguments = parse(&[opened(), format!("ro:{}", opened()), format!("rw:{}", opened())]).unwrap();
        assert_eq!(arguments.exports.iter().map(|export| export.read_only).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn what_is_no_open_descriptor_is_refused() {
        for words in [vec![], vec!["99999"], vec!["1"], vec!["socket"]] {
            assert!(parse(&words.into_iter().map(str::to_owned).collect::<Vec<_>>()).is_err());
        }
        for export in ["5", "rx:5", "ro:99999", "rw:"] {
            assert!(parse(&[opened(), export.into()]).is_err());
        }
    }
}
