//! What the loop waits for: descriptors in one epoll, each with the meaning that its event has.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

/// What an event is about; the number is a stream's, or a process's in our own count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The channel can be read or written, or its host has come or gone.
    Port,
    /// A process's output can be read. Reported once, until [`Events::rearm`].
    Outgoing(u32),
    /// A process's input can be written.
    Incoming(u32),
    /// A child has ended.
    Child,
    /// A process on its way to execve(2) has something to say.
    Report(u32),
    /// A process has asked to be killed.
    SelfKill(u32),
}

impl Source {
    /// As epoll carries it: the kind in the upper half, the number in the lower.
    fn data(self) -> EventData {
        let (kind, number) = match self {
            Source::Port => (0, 0),
            Source::Outgoing(id) => (1, id),
            Source::Incoming(id) => (2, id),
            Source::Child => (3, 0),
            Source::Report(serial) => (4, serial),
            Source::SelfKill(serial) => (5, serial),
        };
        EventData::new_u64(kind << 32 | u64::from(number))
    }

    fn from_data(data: EventData) -> Source {
        let number = data.u64() as u32;
        match data.u64() >> 32 {
            0 => Source::Port,
            1 => Source::Outgoing(number),
            2 => Source::Incoming(number),
            3 => Source::Child,
            4 => Source::Report(number),
            _ => Source::SelfKill(number),
        }
    }

    /// Edge-triggered throughout: what is ready and cannot be served now must not keep the loop busy.
    fn flags(self) -> EventFlags {
        match self {
            Source::Port => EventFlags::IN | EventFlags::OUT | EventFlags::ET,
            Source::Outgoing(_) => EventFlags::IN | EventFlags::ONESHOT,
            Source::Incoming(_) => EventFlags::OUT | EventFlags::ET,
            Source::Child | Source::Report(_) | Source::SelfKill(_) => EventFlags::IN | EventFlags::ET,
        }
    }
}

pub struct Events {
    epoll: OwnedFd,
}

impl Events {
    pub fn new() -> rustix::io::Result<Events> {
        Ok(Events { epoll: epoll::create(CreateFlags::CLOEXEC)? })
    }

    pub fn watch(&self, descriptor: impl AsFd, source: Source) -> rustix::io::Result<()> {
        epoll::add(&self.epoll, descriptor, source.data(), source.flags())
    }

    /// Wants to hear of `source` again; what is ready already is reported at once.
    pub fn rearm(&self, descriptor: impl AsFd, source: Source) -> rustix::io::Result<()> {
        epoll::modify(&self.epoll, descriptor, source.data(), source.flags())
    }

    /// Waits until something happens or `until` has come; `None` waits for ever.
    pub fn wait(&self, until: Option<Instant>) -> rustix::io::Result<impl Iterator<Item = Source> + use<>> {
        let timeout = until.map(|until| timespec(until.saturating_duration_since(Instant::now())));
        let mut buffer = [MaybeUninit::<Event>::uninit(); 64];
        let ready = match epoll::wait(&self.epoll, &mut buffer, timeout.as_ref()) {
            Ok((ready, _)) => ready.iter().map(|event| Source::from_data(event.data)).collect(),
            Err(Errno::INTR) => Vec::new(),
            Err(errno) => return Err(errno),
        };
        Ok(ready.into_iter())
    }
}

pub fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: i64::from(duration.subsec_nanos()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_survives_its_way_through_epoll() {
        let numbered = [Source::Outgoing(7), Source::Incoming(u32::MAX), Source::Report(0), Source::SelfKill(1)];
        for source in [Source::Port, Source::Child].into_iter().chain(numbered) {
            assert_eq!(Source::from_data(source.data()), source);
        }
    }

    #[test]
    fn output_is_reported_once_until_it_is_asked_for_again() {
        let events = Events::new().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        events.watch(&read, Source::Outgoing(3)).unwrap();
        rustix::io::write(&write, b"x").unwrap();
        let now = || Some(Instant::now());
        assert!(events.wait(now()).unwrap().eq([Source::Outgoing(3)]));
        rustix::io::write(&write, b"y").unwrap();
        assert!(events.wait(now()).unwrap().next().is_none());
        events.rearm(&read, Source::Outgoing(3)).unwrap();
        assert!(events.wait(now()).unwrap().eq([Source::Outgoing(3)]));
    }
}
