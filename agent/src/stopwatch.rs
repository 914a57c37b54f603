//! Where the time of a start goes, as the guest sees it.

use std::time::Instant;

use crate::message::Step;

pub struct Stopwatch {
    since: Instant,
    steps: Vec<Step>,
}

impl Stopwatch {
    pub fn start() -> Stopwatch {
        Stopwatch { since: Instant::now(), steps: Vec::with_capacity(8) }
    }

    /// `name` is done now.
    pub fn done(&mut self, name: &'static str) {
        self.steps.push(Step { name, done_us: self.since.elapsed().as_micros() as u64 });
    }

    pub fn steps(&self) -> &[Step] {
        &self.steps
    }
}
