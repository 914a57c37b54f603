//! Children that work on the container's files: their streams, their answer, their end.
//!
//! The request is answered when the work is done and its last byte is on the way to the host.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal};

use super::Agent;
use crate::archive::{self, Ends, Task};
use crate::channel::frame::Kind;
use crate::events::Source;
use crate::failure::{Code, During, Failure, Result};
use crate::message::FileRequest;
use crate::power;
use crate::process::report::{self, Listener, Report};
use crate::process::spawn;

/// A pipe that holds a few chunks of the channel, so that neither side waits for the other at every one.
const PIPE_BYTES: usize = 256 << 10;

pub(super) struct Job {
    request: u32,
    pid: Pid,
    pidfd: OwnedFd,
    listener: Listener,
    input: Option<u32>,
    output: Option<u32>,
    freezes: bool,
    /// The answer as it goes out, once the child has ended.
    outcome: Option<Result<Vec<u8>>>,
}

impl Agent {
    /// Begins work on the container's files, in a child that can do nothing else.
    pub(super) fn work_on_files(&mut self, request: u32, asked: &FileRequest) -> Result<()> {
        let (container, _) = self.running()?;
        let (input, output) = archive::streams(asked);
        if let Some(stream) = input.or(output).filter(|&stream| self.streams.is_in_use(stream)) {
            return Err(Failure::new(Code::InvalidRequest, format!("stream {stream} is in use")));
        }
        let freezes = matches!(asked, FileRequest::ReadChanges(asked) if asked.freeze) && !container.is_held;
        let (listener, reporter) = report::pair().during("make a socket pair")?;
        let mut ends = Ends { input: None, output: None, reporter };
        let (mut sink, mut source) = (None, None);
        if input.is_some() {
            let (theirs, ours) = pipe()?;
            (ends.input, sink) = (Some(theirs), Some(ours));
        }
        if output.is_some() {
            let (ours, theirs) = pipe()?;
            (ends.output, source) = (Some(theirs), Some(ours));
        }
        for end in [&sink, &source].into_iter().flatten() {
            rustix::fs::fcntl_setfl(end, OFlags::NONBLOCK).during("make a pipe")?;
        }
        let task = Task { asked, container, waits_for_freeze: freezes };
        if freezes {
            container.freeze(true)?;
        }
        let child = match spawn::spawn(0, None, || archive::work(&task, ends)).during("start to work on files") {
            Ok(child) => child,
            Err(failure) => {
                container.freeze(false)?;
                return Err(failure);
            }
        };
        // In the list first: whatever fails now, its end is heard.
        self.events.watch(&child.pidfd, Source::Child).during("watch a process")?;
        let pid = child.pid;
        self.jobs.push(Job { request, pid, pidfd: child.pidfd, listener, input, output, freezes, outcome: None });
        if let (Some(id), Some(sink)) = (input, sink) {
            self.streams.add_incoming(id, sink, &self.events).during("connect the input")?;
        }
        if let (Some(id), Some(source)) = (output, source) {
            self.streams.add_outgoing(id, source, false, &self.events).during("connect the output")?;
        }
        Ok(())
    }

    /// A child of which no process is known has ended.
    pub(super) fn note_end_of_job(&mut self, pid: Pid) {
        let Some(job) = self.jobs.iter_mut().find(|job| job.pid == pid) else { return };
        job.outcome = Some(match job.listener.receive() {
            Report::Failure(failure) => Err(failure),
            Report::Answer(answer) => Ok(answer),
            _ => Err(Failure::new(Code::Conflict, "the container ended while its files were being worked on")),
        });
        let (input, output, froze) = (job.input, job.output, std::mem::take(&mut job.freezes));
        if let Some(id) = input {
            self.streams.refuse(id, &mut self.port);
        }
        if let Some(id) = output {
            self.streams.hurry(id);
        }
        if froze && !self.jobs.iter().any(|job| job.freezes) {
            let thawed = self.container.as_ref().map_or(Ok(()), |container| container.freeze(false));
            if let Err(failure) = thawed {
                eprintln!("atoll-agent: {failure}");
            }
        }
    }

    /// Answers for a job whose work is done; false when there is none.
    pub(super) fn finish_jobs(&mut self) -> bool {
        let is_done = |job: &Job| job.outcome.is_some() && !job.output.is_some_and(|id| self.streams.is_outgoing(id));
        let Some(place) = self.jobs.iter().position(is_done) else { return false };
        let job = self.jobs.swap_remove(place);
        match job.outcome {
            Some(Ok(answer)) => self.port.send(Kind::Response, job.request, &answer),
            Some(Err(failure)) => self.answer::<()>(job.request, Err(failure)),
            None => {}
        }
        true
    }

    /// Kills what works on files that are about to go.
    pub(super) fn end_jobs(&mut self) {
        let running = || self.jobs.iter().filter(|job| job.outcome.is_none()).map(|job| &job.pidfd);
        for pidfd in running() {
            let _ = rustix::process::pidfd_send_signal(pidfd.as_fd(), Signal::KILL); // it may have ended
        }
        power::wait_for(running());
    }
}

/// The end to read from, and the end to write to.
fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).during("make a pipe")?;
    let _ = rustix::pipe::fcntl_setpipe_size(&write, PIPE_BYTES); // what it has will do
    Ok((read, write))
}
