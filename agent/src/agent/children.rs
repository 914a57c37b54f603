//! The life of a process as the host sees it: pipes, the answer to its start, its output, its end.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::pipe::PipeFlags;
use rustix::process::WaitOptions;

use super::Agent;
use crate::channel::frame::Kind;
use crate::container::cgroup;
use crate::device;
use crate::events::Source;
use crate::failure::{Code, During, Failure, Result};
use crate::message::{self, Stdio};
use crate::power;
use crate::process::launch::Ends;
use crate::process::report::{self, Listener, Report, Reporter};
use crate::process::spawn::{self, Child};
use crate::process::table::{FIRST, Process, Starting};

/// How long the output of an exec is waited for once it has ended, while others hold it open. Docker's figure.
const LINGER: Duration = Duration::from_secs(2);

/// What a process to be started is connected with: its ends of pipes and of the report, and ours.
pub(super) struct Plan {
    pub theirs: Ends,
    pub ours: [Option<OwnedFd>; 3],
    pub listener: Listener,
    pub reporter: Reporter,
}

impl Agent {
    pub(super) fn plan(&self, id: &str, process: &message::Process) -> Result<Plan> {
        let asked = [process.stdio.stdin, process.stdio.stdout, process.stdio.stderr];
        if let Some(stream) = asked.into_iter().flatten().find(|&stream| self.streams.is_in_use(stream)) {
            return Err(Failure::new(Code::InvalidRequest, format!("process {id}: stream {stream} is in use")));
        }
        let (listener, reporter) = report::pair().during("make a socket pair")?;
        let mut plan = Plan { theirs: Ends::default(), ours: Default::default(), listener, reporter };
        if process.terminal.is_some() {
            return Ok(plan); // comes from inside the container
        }
        let ends = asked.into_iter().zip(plan.theirs.0.iter_mut().zip(&mut plan.ours));
        for (number, (asked, (theirs, ours))) in ends.enumerate() {
            if asked.is_none() {
                continue;
            }
            let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).during("make a pipe")?;
            let (their_end, our_end) = if number == 0 { (read, write) } else { (write, read) };
            rustix::fs::fcntl_setfl(&our_end, OFlags::NONBLOCK).during("make a pipe")?;
            *theirs = Some(their_end);
            *ours = Some(our_end);
        }
        Ok(plan)
    }

    /// Takes a child on its way to execve(2) into the table.
    pub(super) fn enrol(
        &mut self,
        id: &str,
        process: &message::Process,
        ours: [Option<OwnedFd>; 3],
        child: Child,
        starting: Starting,
    ) -> Result<()> {
        let serial = self.next_serial;
        self.next_serial += 1;
        self.events.watch(&child.pidfd, Source::Child).during("watch a process")?;
        self.events.watch(&starting.listener, Source::Report(serial)).during("watch a process")?;
        let [stdin, stdout, stderr] = ours;
        self.connect_input(process.stdio.stdin, stdin)?;
        self.connect_output(process.stdio.stdout, stdout, false)?;
        self.connect_output(process.stdio.stderr, stderr, false)?;
        let process = Process::new(id, child, starting, process.stdio, cgroup::out_of_memory_kills());
        self.processes.insert(serial, process);
        Ok(())
    }

    fn connect_input(&mut self, id: Option<u32>, sink: Option<OwnedFd>) -> Result<()> {
        match (id, sink) {
            (Some(id), Some(sink)) => self.streams.add_incoming(id, sink, &self.events).during("connect the input"),
            _ => Ok(()),
        }
    }

    fn connect_output(&mut self, id: Option<u32>, source: Option<OwnedFd>, is_terminal: bool) -> Result<()> {
        match (id, source) {
            (Some(id), Some(source)) => {
                self.streams.add_outgoing(id, source, is_terminal, &self.events).during("connect the output")
            }
            _ => Ok(()),
        }
    }

    fn connect_terminal(&mut self, stdio: Stdio, master: &OwnedFd) -> Result<()> {
        let copy = || rustix::io::fcntl_dupfd_cloexec(master, 3).during("connect the terminal");
        self.connect_input(stdio.stdin, Some(copy()?))?;
        self.connect_output(stdio.stdout, Some(copy()?), true)
    }

    /// Listens to a process on its way to execve(2), and answers the request that started it.
    pub(super) fn hear_report(&mut self, serial: u32) {
        loop {
            let Some(process) = self.processes.get_mut(&serial) else { return };
            let Some(starting) = &process.starting else { return };
            let request = starting.request;
            match starting.listener.receive() {
                Report::NothingYet => return,
                Report::Terminal(master) => {
                    let stdio = process.stdio;
                    if let Err(failure) = self.connect_terminal(stdio, &master) {
                        eprintln!("atoll-agent: {failure}");
                    }
                    if let Some(process) = self.processes.get_mut(&serial) {
                        process.terminal = Some(master);
                    }
                }
                Report::SelfKills(listener) => {
                    if let Err(errno) = self.events.watch(&listener, Source::SelfKill(serial)) {
                        eprintln!("atoll-agent: cannot watch a seccomp listener: {errno}");
                    }
                    process.self_kills = Some(listener);
                }
                Report::Executed => {
                    let (pid, is_first) = (process.pid.as_raw_nonzero().get(), process.id == FIRST);
                    let Some(mut starting) = process.starting.take() else { return };
                    starting.stopwatch.done("exec");
                    self.answer(request, Ok(message::Started { pid, steps: starting.stopwatch.steps() }));
                    if is_first && device::has_background() {
                        self.bind_in_background();
                    }
                }
                Report::Answer(_) => {}
                Report::Failure(failure) => {
                    process.starting = None;
                    process.has_failed = true;
                    // It ends now: who hears of the failure must not find its remains in the container.
                    power::wait_for(std::iter::once(&process.pidfd));
                    self.reap();
                    self.answer::<()>(request, Err(failure));
                }
            }
        }
    }

    pub(super) fn grant_self_kill(&mut self, serial: u32) {
        let Some(process) = self.processes.get(&serial) else { return };
        let Some(self_kills) = &process.self_kills else { return };
        if self_kills.asked_by(process.pid.as_raw_nonzero().get()) {
            // Cannot fail: the process waits for us in its own call.
            let _ = process.signal(libc::SIGKILL, false);
        }
    }

    /// Binds drivers that nobody waits for, in a process of its own: some take long.
    fn bind_in_background(&mut self) {
        let child = spawn::spawn(0, None, || {
            device::bind_in_background();
            0
        });
        let watched = child.and_then(|child| {
            self.events.watch(&child.pidfd, Source::Child)?;
            std::mem::forget(child.pidfd); // stays open, so that its end is an event
            Ok(())
        });
        if let Err(errno) = watched {
            eprintln!("atoll-agent: cannot bind drivers in the background: {errno}");
        }
    }

    /// Collects every child that has ended.
    pub(super) fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let found = self.processes.iter().find(|(_, process)| process.pid == pid);
            let Some(serial) = found.map(|(&serial, _)| serial) else {
                self.note_end_of_job(pid);
                continue;
            };
            self.hear_report(serial); // what it said before it ended
            let Some(process) = self.processes.get_mut(&serial) else { continue };
            let killed = || status.terminating_signal().map(|signal| 128 + signal);
            process.exit_code = status.exit_status().or_else(killed).or(Some(255));
            process.outputs().for_each(|id| self.streams.hurry(id));
            if let Some(stdin) = process.stdio.stdin {
                self.streams.refuse(stdin, &mut self.port);
            }
            if process.id != FIRST {
                process.lingers_until = Some(Instant::now() + LINGER);
            } else if let Some(container) = &self.container {
                container.kill();
            }
        }
    }

    pub(super) fn end_lingering(&mut self) {
        let now = Instant::now();
        for process in self.processes.values_mut() {
            if process.lingers_until.is_some_and(|until| until <= now) {
                process.lingers_until = None;
                process.outputs().for_each(|id| self.streams.end_when_empty(id));
            }
        }
    }

    /// Tells the host of a process that has ended and whose output it has; false when there is none.
    pub(super) fn finish_processes(&mut self) -> bool {
        let is_done = |process: &Process| {
            let has_output = process.outputs().any(|id| self.streams.is_outgoing(id));
            // The first process goes last: its end is the container's.
            process.exit_code.is_some()
                && (process.has_failed || !has_output)
                && (process.id != FIRST || self.processes.len() == 1)
        };
        let done = self.processes.iter().find(|(_, process)| is_done(process)).map(|(&serial, _)| serial);
        let Some(process) = done.and_then(|serial| self.processes.remove(&serial)) else { return false };
        let out_of_memory = cgroup::out_of_memory_kills() > process.kills_before;
        if process.has_failed {
            process.outputs().for_each(|id| self.streams.forget(id));
        } else {
            let code = process.exit_code.unwrap_or_default();
            self.send(Kind::Event, 0, &("exited", message::Exited { id: &process.id, code, out_of_memory }));
        }
        if process.id == FIRST {
            // Nobody waits for this: who wants the disk to be whole has the power switched off.
            self.port.flush();
            self.take_container_apart();
        }
        true
    }
}
