//! What goes wrong, as one sentence for the runtime's log.

use std::fmt;

#[derive(Debug)]
pub struct Failure(pub String);

pub type Result<T> = std::result::Result<T, Failure>;

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Adds to an error what was being done.
pub trait During<T> {
    /// `what` reads on after "cannot": `mount /proc`.
    fn during(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> During<T> for std::result::Result<T, E> {
    fn during(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| {
            let text = error.into().to_string();
            let reason = text.split(" (os error").next().unwrap_or_default();
            Failure(format!("cannot {what}: {}", reason.to_lowercase()))
        })
    }
}
