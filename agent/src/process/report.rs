//! What a child tells the agent: a process being started its terminal, the listener for its calls, or why it cannot
//! start; one that works for the agent, its answer.
//!
//! End-of-file without a failure is success: execve(2) has closed the socket.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};

use super::self_kill::SelfKills;
use crate::failure::{Code, Failure};

const TERMINAL: u8 = b'T';
const SELF_KILLS: u8 = b'K';
const FAILURE: u8 = b'F';
const ANSWER: u8 = b'A';
/// Two paths of the longest kind, and a little more.
const MESSAGE_MAX: usize = 12 << 10;

/// The agent's end, non-blocking.
pub struct Listener(OwnedFd);

/// The end of the process being started.
pub struct Reporter(OwnedFd);

#[derive(Debug)]
pub enum Report {
    Terminal(OwnedFd),
    SelfKills(SelfKills),
    Failure(Failure),
    /// What a child that works for the agent has found out, as the host gets it.
    Answer(Vec<u8>),
    Executed,
    NothingYet,
}

pub fn pair() -> rustix::io::Result<(Listener, Reporter)> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    Ok((Listener(ours), Reporter(theirs)))
}

impl Listener {
    pub fn receive(&self) -> Report {
        let mut bytes = [0; MESSAGE_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = loop {
            match rustix::net::recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
                Ok(received) => break received.bytes,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Report::NothingYet,
                Err(_) => return Report::Executed,
            }
        };
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        match (bytes.get(..received), descriptor) {
            (Some([TERMINAL]), Some(terminal)) => Report::Terminal(terminal),
            (Some([SELF_KILLS]), Some(listener)) => Report::SelfKills(SelfKills::from_descriptor(listener)),
            (Some([FAILURE, text @ ..]), _) => Report::Failure(parse(text)),
            (Some([ANSWER, payload @ ..]), _) => Report::Answer(payload.to_vec()),
            _ => Report::Executed,
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Reporter {
    pub fn from_descriptor(descriptor: OwnedFd) -> Reporter {
        Reporter(descriptor)
    }

    pub fn terminal(&self, master: BorrowedFd<'_>) -> rustix::io::Result<()> {
        self.hand_over(TERMINAL, master)
    }

    pub fn self_kills(&self, listener: BorrowedFd<'_>) -> rustix::io::Result<()> {
        self.hand_over(SELF_KILLS, listener)
    }

    fn hand_over(&self, what: u8, descriptor: BorrowedFd<'_>) -> rustix::io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [descriptor];
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        rustix::net::sendmsg(&self.0, &[IoSlice::new(&[what])], &mut control, SendFlags::NOSIGNAL).map(drop)
    }

    pub fn failure(&self, failure: &Failure) {
        let text = format!("{}\0{}", failure.code.name(), failure.message);
        let text = text.as_bytes().get(..MESSAGE_MAX - 1).unwrap_or(text.as_bytes());
        self.tell(FAILURE, text);
    }

    pub fn answer(&self, payload: &[u8]) {
        self.tell(ANSWER, payload);
    }

    fn tell(&self, what: u8, bytes: &[u8]) {
        let message = [IoSlice::new(std::slice::from_ref(&what)), IoSlice::new(bytes)];
        // An agent that is not there to hear it is a guest that has ended.
        let _ = rustix::net::sendmsg(&self.0, &message, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL);
    }
}

impl AsFd for Reporter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn parse(text: &[u8]) -> Failure {
    let text = String::from_utf8_lossy(text);
    match text.split_once('\0') {
        Some((code, message)) => Failure::new(Code::from_name(code).unwrap_or(Code::StartFailed), message),
        None => Failure::start(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_arrives_as_it_was_sent() {
        let (listener, reporter) = pair().unwrap();
        assert!(matches!(listener.receive(), Report::NothingYet));
        let sent = Failure::new(Code::CommandNotFound, "exec: \"x\": executable file not found in $PATH");
        reporter.failure(&sent);
        assert!(matches!(listener.receive(), Report::Failure(failure) if failure == sent));
        drop(reporter);
        assert!(matches!(listener.receive(), Report::Executed));
    }

    #[test]
    fn a_terminal_is_passed_on() {
        let (listener, reporter) = pair().unwrap();
        reporter.terminal(std::io::stdin().as_fd()).unwrap();
        assert!(matches!(listener.receive(), Report::Terminal(_)));
    }

    #[test]
    fn a_message_too_long_is_cut() {
        let (listener, reporter) = pair().unwrap();
        reporter.failure(&Failure::start("x".repeat(3 * MESSAGE_MAX)));
        assert!(matches!(listener.receive(), Report::Failure(failure) if failure.code == Code::StartFailed));
    }
}
