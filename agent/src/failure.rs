//! What goes wrong, as the host hears it: a code of `errors.py` and one sentence.

use std::fmt;

use rustix::io::Errno;

/// Codes of `src/atoll/errors.py` that the agent uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    AgentFailed,
    StartFailed,
    CommandNotFound,
    CommandNotExecutable,
    NotFound,
    Conflict,
    InvalidRequest,
}

impl Code {
    const ALL: [Code; 7] = [
        Code::AgentFailed,
        Code::StartFailed,
        Code::CommandNotFound,
        Code::CommandNotExecutable,
        Code::NotFound,
        Code::Conflict,
        Code::InvalidRequest,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Code::AgentFailed => "agent-failed",
            Code::StartFailed => "start-failed",
            Code::CommandNotFound => "command-not-found",
            Code::CommandNotExecutable => "command-not-executable",
            Code::NotFound => "not-found",
            Code::Conflict => "conflict",
            Code::InvalidRequest => "invalid",
        }
    }

    pub fn from_name(name: &str) -> Option<Code> {
        Code::ALL.into_iter().find(|code| code.name() == name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub code: Code,
    pub message: String,
}

pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub fn new(code: Code, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into() }
    }

    /// A container that cannot be started for a reason which lies in its image or its request.
    pub fn start(message: impl Into<String>) -> Failure {
        Failure::new(Code::StartFailed, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

/// The kernel's reason in Docker's words: lower case, no number.
pub fn reason(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => format!("error {}", errno.raw_os_error()),
    }
}

/// Turns a system call's error into a [`Failure`] that says what was being done.
pub trait During<T> {
    /// `what` reads on after "cannot": `mount /proc`.
    fn during(self, what: impl fmt::Display) -> Result<T>;
}

impl<T> During<T> for rustix::io::Result<T> {
    fn during(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|errno| Failure::start(format!("cannot {what}: {}", reason(errno))))
    }
}

impl<T> During<T> for std::io::Result<T> {
    fn during(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            Failure::start(format!("cannot {what}: {}", reason(errno)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_in_lower_case_and_has_no_number() {
        assert_eq!(reason(Errno::NOENT), "no such file or directory");
    }

    #[test]
    fn every_code_is_found_by_its_name() {
        for code in Code::ALL {
            assert_eq!(Code::from_name(code.name()), Some(code));
        }
        assert_eq!(Code::from_name("nonsense"), None);
    }
}
