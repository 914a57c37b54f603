//! The agent's one loop: requests come in, processes come and go, output goes out.

mod children;
mod jobs;
mod requests;

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;

use crate::channel::frame::{Broken, Decoder, Item, Kind};
use crate::channel::port::{Port, Read};
use crate::container::Container;
use crate::container::understudy::Understudy;
use crate::events::{Events, Source};
use crate::failure::{During, Failure, Result};
use crate::memory;
use crate::message;
use crate::network::Network;
use crate::process::table::Process;
use crate::streams::Streams;

const READ_BUFFER: usize = 64 << 10;
/// Reads of the port between two looks at everything else.
const READS_IN_TURN: usize = 8;

pub struct Agent {
    events: Events,
    port: Port,
    decoder: Decoder,
    buffer: Vec<u8>,
    /// A host has been heard on the port, so that its silence means that it has gone.
    has_host: bool,
    streams: Streams,
    /// Processes that live, or whose output or end the host has not heard of, by a number of ours.
    processes: BTreeMap<u32, Process>,
    next_serial: u32,
    /// Children that work on the container's files.
    jobs: Vec<jobs::Job>,
    container: Option<Container>,
    /// The first process of the container to come.
    understudy: Option<Understudy>,
    /// A start that waits for the host's word.
    waiting: Option<requests::Waiting>,
    network: Network,
    /// The memory that the guest was booted with, as far as its kernel manages it.
    booted_bytes: u64,
}

impl Agent {
    /// Takes the channel over and says hello on it.
    pub fn new(port: Port) -> Result<Agent> {
        let events = Events::new().during("make an epoll")?;
        events.watch(&port, Source::Port).during("watch the channel")?;
        let mut agent = Agent {
            events,
            port,
            decoder: Decoder::default(),
            buffer: vec![0; READ_BUFFER],
            has_host: false,
            streams: Streams::default(),
            processes: BTreeMap::new(),
            next_serial: 1,
            jobs: Vec::new(),
            container: None,
            understudy: None,
            waiting: None,
            network: Network::default(),
            booted_bytes: memory::total_bytes(),
        };
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
        loop {
            for source in self.events.wait(self.wakes_at()).during("wait for events")? {
                self.wake(source);
            }
            self.read_port();
            self.end_lingering();
            loop {
                self.streams.pump(&mut self.port, &self.events);
                if !self.finish_processes() && !self.finish_jobs() {
                    break;
                }
            }
        }
    }

    fn wakes_at(&self) -> Option<Instant> {
        if self.port.is_readable {
            return Some(Instant::now());
        }
        let lingering = self.processes.values().filter_map(|process| process.lingers_until);
        lingering.chain(self.streams.rests_until()).min()
    }

    fn wake(&mut self, source: Source) {
        match source {
            Source::Port => self.port.wake(),
            Source::Outgoing(id) => self.streams.outgoing_ready(id),
            Source::Incoming(id) => self.streams.incoming_ready(id, &mut self.port),
            Source::Child => self.reap(),
            Source::Report(serial) => self.hear_report(serial),
            Source::SelfKill(serial) => self.grant_self_kill(serial),
        }
    }

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
}
