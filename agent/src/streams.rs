//! Streams between the channel and the processes' pipes and terminals, with credit in both directions.
//!
//! Nothing is read from a process that the host has not given credit for and the port has no room
//! for: a process that writes faster than its reader reads blocks in write(2), as on any full pipe.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::channel::frame::{Broken, Kind, WINDOW};
use crate::channel::port::{CHUNK, Port};
use crate::events::{Events, Source};

/// Credit goes back in steps of at least this much.
const CREDIT_STEP: usize = WINDOW / 4;

/// A process that writes little at a time, again and again, is read at most this often: a frame for
/// every line costs far more than the lines. Few writes in a row go out at once.
const REST: Duration = Duration::from_millis(1);
const LITTLE: usize = 16 << 10;
const FEW: u32 = 4;

/// A process's output on its way to the host.
struct Outgoing {
    source: OwnedFd,
    credit: usize,
    /// There may be something to read; if not, the source is armed in epoll.
    is_ready: bool,
    /// A terminal gives less than it has in one read(2): only "try again" tells that it is empty.
    is_terminal: bool,
    /// End when nothing is left to read: the process has ended, others may hold its pipe open.
    ends_when_empty: bool,
    /// Little reads in a row, with no pause between them.
    little_reads: u32,
    last_read: Option<Instant>,
    /// Not to be read before; not armed, so that its writer wakes nobody up.
    rests_until: Option<Instant>,
}

impl Outgoing {
    fn wants_service(&self, now: Instant) -> bool {
        self.is_ready && self.credit > 0 && self.rests_until.is_none_or(|until| until <= now)
    }

    /// Sends this source to rest when it has given little too often.
    fn note_read(&mut self, count: usize, now: Instant) {
        let is_pause = self.last_read.is_none_or(|last| now - last > 4 * REST);
        self.last_read = Some(now);
        self.little_reads = if count >= LITTLE || is_pause { 0 } else { self.little_reads + 1 };
        self.rests_until = (self.little_reads >= FEW && !self.ends_when_empty).then(|| now + REST);
    }
}

/// The host's input on its way to a process.
struct Incoming {
    sink: OwnedFd,
    queue: VecDeque<u8>,
    /// What the host may still send.
    allowance: usize,
    /// What went into the process and was not yet given back as credit.
    consumed: usize,
    has_ended: bool,
}

#[derive(Default)]
pub struct Streams {
    outgoing: BTreeMap<u32, Outgoing>,
    incoming: BTreeMap<u32, Incoming>,
    /// The stream served last: the next one is served next.
    last_served: u32,
}

impl Streams {
    /// Takes a process's output, its descriptor not blocking.
    pub fn add_outgoing(
        &mut self,
        id: u32,
        source: OwnedFd,
        is_terminal: bool,
        events: &Events,
    ) -> rustix::io::Result<()> {
        events.watch(&source, Source::Outgoing(id))?;
        let stream = Outgoing {
            source,
            credit: WINDOW,
            is_ready: false,
            is_terminal,
            ends_when_empty: false,
            little_reads: 0,
            last_read: None,
            rests_until: None,
        };
        self.outgoing.insert(id, stream);
        Ok(())
    }

    /// Takes a process's input, its descriptor not blocking.
    pub fn add_incoming(&mut self, id: u32, sink: OwnedFd, events: &Events) -> rustix::io::Result<()> {
        events.watch(&sink, Source::Incoming(id))?;
        let queue = VecDeque::new();
        self.incoming.insert(id, Incoming { sink, queue, allowance: WINDOW, consumed: 0, has_ended: false });
        Ok(())
    }

    pub fn is_in_use(&self, id: u32) -> bool {
        self.outgoing.contains_key(&id) || self.incoming.contains_key(&id)
    }

    pub fn is_outgoing(&self, id: u32) -> bool {
        self.outgoing.contains_key(&id)
    }

    /// Forgets a stream of which the host expects nothing any more.
    pub fn forget(&mut self, id: u32) {
        self.outgoing.remove(&id);
    }

    /// Forgets all streams: the host that they led to has gone.
    pub fn clear(&mut self) {
        self.outgoing.clear();
        self.incoming.clear();
    }

    /// A source has something to read, or has come to its end.
    pub fn outgoing_ready(&mut self, id: u32) {
        if let Some(stream) = self.outgoing.get_mut(&id) {
            stream.is_ready = true;
        }
    }

    /// A sink takes bytes again, or never will.
    pub fn incoming_ready(&mut self, id: u32, port: &mut Port) {
        self.write_queue(id, port);
    }

    /// When the next source has rested enough.
    pub fn rests_until(&self) -> Option<Instant> {
        let waiting = self.outgoing.values().filter(|stream| stream.is_ready && stream.credit > 0);
        waiting.filter_map(|stream| stream.rests_until).min()
    }

    /// `DATA` from the host.
    pub fn receive(&mut self, id: u32, mut bytes: &[u8], port: &mut Port) -> Result<(), Broken> {
        let Some(stream) = self.incoming.get_mut(&id) else { return Ok(()) };
        stream.allowance = stream.allowance.checked_sub(bytes.len()).ok_or(Broken("data beyond the credit"))?;
        if stream.queue.is_empty() {
            // What the sink does not take, or an error of it, is the queue's business.
            let count = rustix::io::write(&stream.sink, bytes).unwrap_or_default();
            stream.consumed += count;
            bytes = bytes.get(count..).unwrap_or_default();
        }
        stream.queue.extend(bytes);
        self.write_queue(id, port);
        Ok(())
    }

    /// `EOF` from the host.
    pub fn receive_end(&mut self, id: u32, port: &mut Port) {
        if let Some(stream) = self.incoming.get_mut(&id) {
            stream.has_ended = true;
            self.write_queue(id, port);
        }
    }

    /// `CREDIT` from the host.
    pub fn receive_credit(&mut self, id: u32, bytes: u32) {
        if let Some(stream) = self.outgoing.get_mut(&id) {
            stream.credit = stream.credit.saturating_add(bytes as usize);
        }
    }

    /// `STOP` from the host: the process's pipe is closed, as by a reader that has gone.
    pub fn receive_stop(&mut self, id: u32, port: &mut Port) {
        if self.is_outgoing(id) {
            self.finish(id, port);
        }
    }

    /// Takes no more input for `id`, and says so.
    pub fn refuse(&mut self, id: u32, port: &mut Port) {
        if self.incoming.remove(&id).is_some() {
            port.send(Kind::Stop, id, &[]);
        }
    }

    /// The process behind `id` has ended: what it wrote is read at once.
    pub fn hurry(&mut self, id: u32) {
        if let Some(stream) = self.outgoing.get_mut(&id) {
            stream.is_ready = true;
            stream.rests_until = None;
        }
    }

    /// The process behind `id` has ended long ago: what others write is not waited for.
    pub fn end_when_empty(&mut self, id: u32) {
        self.hurry(id);
        if let Some(stream) = self.outgoing.get_mut(&id) {
            stream.ends_when_empty = true;
        }
    }

    fn write_queue(&mut self, id: u32, port: &mut Port) {
        let Some(stream) = self.incoming.get_mut(&id) else { return };
        while !stream.queue.is_empty() {
            match rustix::io::write(&stream.sink, stream.queue.as_slices().0) {
                Ok(count) => {
                    stream.queue.drain(..count);
                    stream.consumed += count;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return self.refuse(id, port),
            }
        }
        if stream.has_ended && stream.queue.is_empty() {
            self.incoming.remove(&id);
        } else if stream.consumed >= CREDIT_STEP {
            port.send(Kind::Credit, id, &(stream.consumed as u32).to_le_bytes());
            stream.allowance += stream.consumed;
            stream.consumed = 0;
        }
    }

    /// Moves output to the port, a chunk a stream in turn, until the port is full or nothing is left.
    pub fn pump(&mut self, port: &mut Port, events: &Events) {
        let now = Instant::now();
        while port.flush() {
            let Some(id) = self.next_to_serve(now) else { return };
            self.last_served = id;
            let Some(stream) = self.outgoing.get_mut(&id) else { return };
            let wanted = stream.credit.min(CHUNK);
            let is_empty = match port.relay(stream.source.as_fd(), id, wanted) {
                Ok(0) => {
                    self.finish(id, port);
                    continue;
                }
                Ok(count) => {
                    stream.credit -= count;
                    stream.note_read(count, now);
                    count < wanted && !stream.is_terminal && stream.rests_until.is_none()
                }
                Err(Errno::INTR) => false,
                Err(Errno::AGAIN) => true,
                // EIO: nobody has the terminal open any more.
                Err(_) => {
                    self.finish(id, port);
                    continue;
                }
            };
            if is_empty && stream.ends_when_empty {
                self.finish(id, port);
            } else if is_empty {
                stream.is_ready = events.rearm(&stream.source, Source::Outgoing(id)).is_err();
            }
        }
    }

    fn next_to_serve(&self, now: Instant) -> Option<u32> {
        let wants_service = |(_, stream): &(&u32, &Outgoing)| stream.wants_service(now);
        let after = self.outgoing.range(self.last_served.saturating_add(1)..).find(wants_service);
        after.or_else(|| self.outgoing.range(..=self.last_served).find(wants_service)).map(|(&id, _)| id)
    }

    fn finish(&mut self, id: u32, port: &mut Port) {
        self.outgoing.remove(&id);
        port.send(Kind::Eof, id, &[]);
    }
}
