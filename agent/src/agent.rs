//! The agent's one loop: requests come in, processes come and go, output goes out.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use serde::Serialize;

use crate::channel::frame::{Broken, Decoder, Item, Kind};
use crate::channel::port::{Port, Read};
use crate::container::{Container, cgroup};
use crate::device;
use crate::failure::{Code, During, Failure, Result};
use crate::message::{self, Request};
use crate::process::launch::Ends;
use crate::process::report::{self, Report};
use crate::process::table::{Process, Starting};
use crate::process::{spawn, terminal};
use crate::streams::Streams;
use crate::{power, processes, statistics};

/// The container's first process in requests and events.
const FIRST: &str = "init";
/// How long the output of an exec is waited for once it has ended, while others hold it open. Docker's figure.
const LINGER: Duration = Duration::from_secs(2);
const READ_BUFFER: usize = 64 << 10;
/// Reads of the port between two looks at everything else.
const READS_IN_TURN: usize = 8;

/// What an event is about: the kind in the upper half of epoll's word, a number in the lower.
#[derive(Clone, Copy)]
enum Source {
    Port,
    Outgoing(u32),
    Incoming(u32),
    Ended,
    Report(u32),
}

impl Source {
    fn word(self) -> epoll::EventData {
        let (kind, number) = match self {
            Source::Port => (0, 0),
            Source::Outgoing(id) => (1, id),
            Source::Incoming(id) => (2, id),
            Source::Ended => (3, 0),
            Source::Report(serial) => (4, serial),
        };
        epoll::EventData::new_u64(kind << 32 | u64::from(number))
    }

    fn from_word(word: u64) -> Source {
        let number = word as u32;
        match word >> 32 {
            0 => Source::Port,
            1 => Source::Outgoing(number),
            2 => Source::Incoming(number),
            3 => Source::Ended,
            _ => Source::Report(number),
        }
    }
}

pub struct Agent {
    epoll: OwnedFd,
    port: Port,
    decoder: Decoder,
    buffer: Vec<u8>,
    /// A host has been heard on the port, so that its silence means that it has gone.
    has_host: bool,
    streams: Streams,
    /// Processes that live, or whose output or end the host has not heard of, by a number of ours.
    processes: BTreeMap<u32, Process>,
    next_serial: u32,
    container: Option<Container>,
    /// The container's first process has ended, or could not be started.
    is_over: bool,
}

impl Agent {
    /// Takes the channel over and says hello on it.
    pub fn new(port: Port) -> Result<Agent> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).during("make an epoll")?;
        let mut agent = Agent {
            epoll,
            port,
            decoder: Decoder::default(),
            buffer: vec![0; READ_BUFFER],
            has_host: false,
            streams: Streams::default(),
            processes: BTreeMap::new(),
            next_serial: 1,
            container: None,
            is_over: false,
        };
        let both = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&agent.epoll, &agent.port, Source::Port.word(), both).during("watch the channel")?;
        agent.say_hello();
        Ok(agent)
    }

    fn say_hello(&mut self) {
        let kernel = rustix::system::uname();
        let kernel = kernel.release().to_string_lossy();
        let agent_version = env!("CARGO_PKG_VERSION");
        self.send(Kind::Hello, 0, &message::Hello { protocol: message::PROTOCOL, agent_version, kernel: &kernel });
        self.port.flush();
    }

    /// Serves until the power is switched off.
    pub fn run(&mut self) -> Result<()> {
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            let timeout = self.timeout();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).during("wait for events"),
            }
            for event in &events {
                self.wake(Source::from_word(event.data.u64()));
            }
            self.read_port();
            self.end_lingering();
            loop {
                self.streams.pump(&mut self.port);
                if !self.finish_processes() {
                    break;
                }
            }
        }
    }

    fn timeout(&self) -> Option<Timespec> {
        if self.port.is_readable {
            return Some(Timespec { tv_sec: 0, tv_nsec: 0 });
        }
        let until = self.processes.values().filter_map(|process| process.lingers_until).min()?;
        let left = until.saturating_duration_since(Instant::now());
        Some(Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) })
    }

    fn wake(&mut self, source: Source) {
        match source {
            Source::Port => self.port.wake(),
            Source::Outgoing(id) => self.streams.outgoing_ready(id),
            Source::Incoming(id) => self.streams.incoming_ready(id, &mut self.port),
            Source::Ended => self.reap(),
            Source::Report(serial) => self.hear_report(serial),
        }
    }

    fn watch(&self, descriptor: impl AsFd, source: Source) -> Result<()> {
        let flags = match source {
            Source::Incoming(_) => epoll::EventFlags::OUT,
            _ => epoll::EventFlags::IN,
        };
        epoll::add(&self.epoll, descriptor, source.word(), flags | epoll::EventFlags::ET).during("watch a descriptor")
    }

    // The channel

    fn read_port(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut decoder = std::mem::take(&mut self.decoder);
        for _ in 0..READS_IN_TURN {
            if !self.port.is_readable {
                break;
            }
            let outcome = match self.port.read(&mut buffer) {
                Read::Bytes(count) => {
                    self.has_host = true;
                    self.receive(&mut decoder, buffer.get(..count).unwrap_or_default())
                }
                Read::Nothing => break,
                Read::NoHost if self.has_host => Err(Broken("the host has gone")),
                Read::NoHost => break,
            };
            if let Err(Broken(why)) = outcome {
                decoder = Decoder::default();
                self.start_anew(why);
            }
        }
        self.buffer = buffer;
        self.decoder = decoder;
    }

    /// The channel is broken: what was under way on it is lost, the container runs on.
    fn start_anew(&mut self, why: &str) {
        eprintln!("atoll-agent: the channel is broken: {why}");
        self.has_host = false;
        self.streams.clear();
        self.port.forget();
        self.say_hello();
    }

    fn receive(&mut self, decoder: &mut Decoder, mut input: &[u8]) -> std::result::Result<(), Broken> {
        while let Some(item) = decoder.next(&mut input)? {
            match item {
                Item::Data { id, bytes } => self.streams.receive(id, bytes, &mut self.port)?,
                Item::Message { kind: Kind::Request, id, payload } => self.request(id, &payload)?,
                Item::Message { kind: Kind::Credit, id, payload } => {
                    let bytes = payload.first_chunk().copied().map_or(0, u32::from_le_bytes);
                    self.streams.receive_credit(id, bytes);
                }
                Item::Message { kind: Kind::Eof, id, .. } => self.streams.receive_end(id, &mut self.port),
                Item::Message { kind: Kind::Stop, id, .. } => self.streams.receive_stop(id, &mut self.port),
                Item::Message { kind: Kind::Hello, .. } => {}
                Item::Message { .. } => return Err(Broken("a frame that only the agent sends")),
            }
        }
        Ok(())
    }

    fn send(&mut self, kind: Kind, id: u32, message: &impl Serialize) {
        match rmp_serde::to_vec_named(message) {
            Ok(payload) => self.port.send(kind, id, &payload),
            Err(error) => eprintln!("atoll-agent: cannot encode a message: {error}"),
        }
    }

    fn answer<T: Serialize>(&mut self, request: u32, result: Result<T>) {
        match result {
            Ok(value) => self.send(Kind::Response, request, &value),
            Err(Failure { code, message }) => {
                self.send(Kind::Error, request, &message::Error { code: code.name(), message: &message });
            }
        }
    }

    // Requests

    fn request(&mut self, id: u32, payload: &[u8]) -> std::result::Result<(), Broken> {
        let request = rmp_serde::from_slice(payload).map_err(|_| Broken("a request that does not decode"))?;
        match request {
            Request::Ping => self.answer(id, Ok(())),
            Request::Start(start) => {
                if let Err(failure) = self.start(id, &start) {
                    self.is_over = true;
                    self.take_container_apart();
                    self.answer::<()>(id, Err(failure));
                }
            }
            Request::Exec(exec) => {
                if let Err(failure) = self.exec(id, &exec) {
                    self.answer::<()>(id, Err(failure));
                }
            }
            Request::Signal(signal) => {
                let result = self.signal(&signal);
                self.answer(id, result);
            }
            Request::Resize(resize) => {
                let result = self.resize(&resize);
                self.answer(id, result);
            }
            Request::Processes => {
                let result = self.running().map(|_| processes::list());
                self.answer(id, result);
            }
            Request::Statistics => {
                let result = self.running().map(|_| statistics::read());
                self.answer(id, result);
            }
            Request::PowerOff => {
                self.answer(id, Ok(()));
                self.port.flush();
                self.power_off();
            }
            Request::PrepareTemplate => {
                let result = power::prepare_template(self.container.is_some());
                self.answer(id, result);
            }
            Request::Unknown(method) => {
                let failure = Failure::new(Code::InvalidRequest, format!("the agent knows no request {method}"));
                self.answer::<()>(id, Err(failure));
            }
        }
        Ok(())
    }

    fn start(&mut self, request: u32, start: &message::Start) -> Result<()> {
        if self.container.is_some() {
            return Err(Failure::new(Code::Conflict, "this guest has started its container already"));
        }
        let mut plan = self.plan(FIRST, &start.process)?;
        let container = self.container.insert(Container::default());
        let child = container.start(start, std::mem::take(&mut plan.theirs), plan.reporter)?;
        self.enrol(request, FIRST, &start.process, plan.ours, plan.listener, child)
    }

    fn exec(&mut self, request: u32, exec: &message::Exec) -> Result<()> {
        if self.find(&exec.id).is_ok() {
            return Err(Failure::new(Code::Conflict, format!("there is a process {} already", exec.id)));
        }
        let plan = self.plan(&exec.id, &exec.process)?;
        let child = {
            let (container, first) = self.running()?;
            container.exec(exec, &first.pidfd, plan.theirs, plan.reporter)?
        };
        self.enrol(request, &exec.id, &exec.process, plan.ours, plan.listener, child)
    }

    /// The container and its first process, if that runs.
    fn running(&self) -> Result<(&Container, &Process)> {
        let not_running = || Failure::new(Code::Conflict, "the container is not running");
        let first = self.find(FIRST).ok().filter(|first| first.exit_code.is_none() && first.starting.is_none());
        Ok((self.container.as_ref().ok_or_else(not_running)?, first.ok_or_else(not_running)?))
    }

    fn find(&self, id: &str) -> Result<&Process> {
        let found = self.processes.values().find(|process| process.id == id);
        found.ok_or_else(|| Failure::new(Code::NotFound, format!("there is no process {id}")))
    }

    fn signal(&self, signal: &message::Signal) -> Result<()> {
        let process = self.find(&signal.id)?;
        process.signal(signal.signal, signal.everyone, process.id == FIRST)
    }

    fn resize(&self, resize: &message::Resize) -> Result<()> {
        match &self.find(&resize.id)?.terminal {
            Some(master) => terminal::resize(master.as_fd(), resize.rows, resize.columns).during("resize the terminal"),
            None => Err(Failure::new(Code::Conflict, format!("process {} has no terminal", resize.id))),
        }
    }

    // Processes

    /// Pipes for a process, the child's ends and ours.
    fn plan(&self, id: &str, process: &message::Process) -> Result<Plan> {
        let stdio = &process.stdio;
        let asked = [stdio.stdin, stdio.stdout, stdio.stderr];
        if let Some(stream) = asked.into_iter().flatten().find(|&stream| self.streams.is_in_use(stream)) {
            return Err(Failure::new(Code::InvalidRequest, format!("process {id}: stream {stream} is in use")));
        }
        let (listener, reporter) = report::pair().during("make a socket pair")?;
        let mut plan = Plan { theirs: Ends::default(), ours: Default::default(), listener, reporter };
        if process.terminal.is_some() {
            return Ok(plan);
        }
        for (number, (theirs, ours)) in plan.theirs.0.iter_mut().zip(&mut plan.ours).enumerate() {
            if asked.get(number).copied().flatten().is_none() {
                continue;
            }
            let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).during("make a pipe")?;
            let (their_end, our_end) = if number == 0 { (read, write) } else { (write, read) };
            rustix::fs::fcntl_setfl(&our_end, rustix::fs::OFlags::NONBLOCK).during("make a pipe")?;
            *theirs = Some(their_end);
            *ours = Some(our_end);
        }
        Ok(plan)
    }

    /// Takes a child under way to execve(2) into the table; the request is answered when it gets there.
    fn enrol(
        &mut self,
        request: u32,
        id: &str,
        process: &message::Process,
        ours: [Option<OwnedFd>; 3],
        listener: report::Listener,
        child: spawn::Child,
    ) -> Result<()> {
        let serial = self.next_serial;
        self.next_serial += 1;
        self.watch(&child.pidfd, Source::Ended)?;
        self.watch(&listener, Source::Report(serial))?;
        let [stdin, stdout, stderr] = ours;
        self.connect_input(process.stdio.stdin, stdin)?;
        self.connect_output(process.stdio.stdout, stdout, false)?;
        self.connect_output(process.stdio.stderr, stderr, false)?;
        let starting = Starting { request, listener };
        let process = Process::new(id, child, starting, process.stdio, cgroup::out_of_memory_kills());
        self.processes.insert(serial, process);
        Ok(())
    }

    fn connect_input(&mut self, id: Option<u32>, sink: Option<OwnedFd>) -> Result<()> {
        if let (Some(id), Some(sink)) = (id, sink) {
            self.watch(&sink, Source::Incoming(id))?;
            self.streams.add_incoming(id, sink);
        }
        Ok(())
    }

    fn connect_output(&mut self, id: Option<u32>, source: Option<OwnedFd>, is_terminal: bool) -> Result<()> {
        if let (Some(id), Some(source)) = (id, source) {
            self.watch(&source, Source::Outgoing(id))?;
            self.streams.add_outgoing(id, source, is_terminal);
        }
        Ok(())
    }

    fn connect_terminal(&mut self, stdio: message::Stdio, master: &OwnedFd) -> Result<()> {
        let copy = || rustix::io::fcntl_dupfd_cloexec(master, 3).during("copy the terminal's descriptor");
        self.connect_input(stdio.stdin, Some(copy()?))?;
        self.connect_output(stdio.stdout, Some(copy()?), true)
    }

    /// Listens to a process on its way to execve(2), and answers the request that started it.
    fn hear_report(&mut self, serial: u32) {
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
                Report::Executed => {
                    process.starting = None;
                    let (pid, is_first) = (process.pid.as_raw_nonzero().get(), process.id == FIRST);
                    self.answer(request, Ok(message::Started { pid }));
                    if is_first {
                        self.bind_in_background();
                    }
                    return;
                }
                Report::Failure(failure) => {
                    process.starting = None;
                    process.has_failed = true;
                    self.answer::<()>(request, Err(failure));
                    return;
                }
            }
        }
    }

    /// Binds drivers that nobody waits for, in a process of its own: some take long.
    fn bind_in_background(&mut self) {
        let child = spawn::spawn(0, None, || {
            device::bind_in_background();
            0
        });
        let watched = child.during("start a process").and_then(|child| {
            self.watch(&child.pidfd, Source::Ended)?;
            std::mem::forget(child.pidfd); // stays open, so that its end is an event
            Ok(())
        });
        if let Err(failure) = watched {
            eprintln!("atoll-agent: {failure}");
        }
    }

    /// Collects every child that has ended.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {
            let found = self.processes.iter().find(|(_, process)| process.pid == pid);
            let Some(serial) = found.map(|(&serial, _)| serial) else { continue };
            self.hear_report(serial); // what it said before it ended
            let Some(process) = self.processes.get_mut(&serial) else { continue };
            let killed = || status.terminating_signal().map(|signal| 128 + signal);
            process.exit_code = status.exit_status().or_else(killed).or(Some(255));
            let (stdio, is_first) = (process.stdio, process.id == FIRST);
            if !is_first {
                process.lingers_until = Some(Instant::now() + LINGER);
            }
            if let Some(stdin) = stdio.stdin {
                self.streams.refuse(stdin, &mut self.port);
            }
            if let (true, Some(container)) = (is_first, &self.container) {
                container.kill();
            }
        }
    }

    fn end_lingering(&mut self) {
        let now = Instant::now();
        for process in self.processes.values_mut() {
            if process.lingers_until.is_some_and(|until| until <= now) {
                process.lingers_until = None;
                process.outputs().for_each(|id| self.streams.end_when_empty(id));
            }
        }
    }

    /// Tells the host of processes that have ended and whose output it has; true when there were any.
    fn finish_processes(&mut self) -> bool {
        let is_done = |process: &Process| {
            let has_output = process.outputs().any(|id| self.streams.is_outgoing(id));
            process.exit_code.is_some() && (process.has_failed || !has_output)
        };
        let is_alone = self.processes.len() == 1;
        // The first process goes last: its end is the container's.
        let mut done =
            self.processes.iter().filter(|(_, process)| is_done(process) && (process.id != FIRST || is_alone));
        let Some(serial) = done.next().map(|(&serial, _)| serial) else { return false };
        let Some(process) = self.processes.remove(&serial) else { return false };
        let out_of_memory = cgroup::out_of_memory_kills() > process.kills_before;
        if process.id == FIRST {
            self.is_over = true;
            self.take_container_apart();
        }
        if process.has_failed {
            process.outputs().for_each(|id| self.streams.forget(id));
        } else {
            let code = process.exit_code.unwrap_or_default();
            self.send(Kind::Event, 0, &("exited", message::Exited { id: &process.id, code, out_of_memory }));
        }
        true
    }

    fn take_container_apart(&mut self) {
        if let Some(container) = &mut self.container {
            container.kill();
            container.unmount();
        }
    }

    fn power_off(&mut self) {
        if let Some(container) = &self.container {
            container.kill();
        }
        power::wait_for(
            self.processes.values().filter(|process| process.exit_code.is_none()).map(|process| &process.pidfd),
        );
        self.take_container_apart();
        power::off();
    }
}

/// What a process to be started is connected with.
struct Plan {
    theirs: Ends,
    ours: [Option<OwnedFd>; 3],
    listener: report::Listener,
    reporter: report::Reporter,
}
