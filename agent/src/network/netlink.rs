//! Requests to the kernel about interfaces, addresses and routes (rtnetlink(7)).
//!
//! The crate writes the messages, of the three kinds that are needed. Of what the kernel answers only the error is of
//! interest, and where that is, one line of ours knows. All kinds, and reading them, would be a sixth of the agent.

use std::net::IpAddr;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use netlink_packet_core::{Emitable, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, SocketType};

use super::Address;
use crate::failure::{During, Result};

/// Where a message's `struct nlmsghdr` has its sequence number, and where an answer has its error.
const SEQUENCE: Range<usize> = 8..12;
const ERROR: Range<usize> = 16..20;

/// A socket to the kernel; it stays with the network namespace in which it was opened.
#[derive(Debug)]
pub struct Netlink(OwnedFd);

/// Something to be done, and what it is called when it fails.
pub struct Request {
    what: String,
    kind: u16,
    message: Box<dyn Emitable>,
    flags: u16,
}

impl Netlink {
    /// One for the namespace that the caller is in.
    pub fn open() -> rustix::io::Result<Netlink> {
        let family = rustix::net::AddressFamily::NETLINK;
        rustix::net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, None).map(Netlink)
    }

    /// Carries the requests out, one after the other; an error is that of the first that failed.
    pub fn carry_out(&self, requests: Vec<Request>) -> Result<()> {
        let mut bytes = Vec::new();
        let mut names = Vec::with_capacity(requests.len());
        for (number, Request { what, kind, message, flags }) in requests.into_iter().enumerate() {
            let mut header = NetlinkHeader::default();
            header.length = (header.buffer_len() + message.buffer_len()) as u32;
            header.message_type = kind;
            header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
            header.sequence_number = number as u32;
            append(&mut bytes, &header);
            append(&mut bytes, message.as_ref());
            names.push(what);
        }
        if names.is_empty() {
            return Ok(());
        }
        rustix::net::send(&self.0, &bytes, SendFlags::empty()).during("ask the kernel about the network")?;
        let mut outcome = Ok(());
        for _ in 0..names.len() {
            let (number, error) = self.answer().during("hear from the kernel about the network")?;
            if let (Ok(()), Err(errno)) = (&outcome, error) {
                let what = names.get(number as usize).map_or("change the network", String::as_str);
                outcome = Err(errno).during(what);
            }
        }
        outcome
    }

    /// The number of a request, and what became of it.
    fn answer(&self) -> rustix::io::Result<(u32, rustix::io::Result<()>)> {
        let mut buffer = [0; 4096];
        let (length, _) = rustix::net::recv(&self.0, &mut buffer, RecvFlags::empty())?;
        let word = |place: Range<usize>| -> Option<[u8; 4]> { buffer.get(..length)?.get(place)?.try_into().ok() };
        let number = word(SEQUENCE).map(u32::from_ne_bytes).ok_or(Errno::BADMSG)?;
        let error = word(ERROR).map(i32::from_ne_bytes).ok_or(Errno::BADMSG)?;
        Ok((number, if error == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(-error)) }))
    }

    /// The number of the interface that is called `name`.
    pub fn index(&self, name: &str) -> rustix::io::Result<u32> {
        rustix::net::netdevice::name_to_index(&self.0, name)
    }
}

/// An interface goes to another namespace, under another name: down, and without addresses.
pub fn relocate(index: u32, namespace: BorrowedFd<'_>, name: &str) -> Request {
    let attributes = vec![LinkAttribute::NetNsFd(namespace.as_raw_fd()), LinkAttribute::IfName(name.into())];
    link(format!("move the interface {name}"), index, attributes, None)
}

/// An interface, from another namespace if one is given here, becomes `name` with this address and goes up.
pub fn bring_up(index: u32, into: Option<BorrowedFd<'_>>, name: &str, mac: [u8; 6], mtu: u32) -> Request {
    let namespace = into.map(|namespace| LinkAttribute::NetNsFd(namespace.as_raw_fd()));
    let others = [LinkAttribute::IfName(name.into()), LinkAttribute::Address(mac.to_vec()), LinkAttribute::Mtu(mtu)];
    let attributes = namespace.into_iter().chain(others).collect();
    link(format!("bring up the interface {name}"), index, attributes, Some(LinkFlags::Up))
}

fn link(what: String, index: u32, attributes: Vec<LinkAttribute>, flags: Option<LinkFlags>) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    if let Some(flags) = flags {
        message.header.flags = flags;
        message.header.change_mask = flags;
    }
    message.attributes = attributes;
    Request { what, message: Box::new(message), kind: libc::RTM_SETLINK, flags: 0 }
}

/// An address that is ours at once: nobody else has it, so nobody is asked.
///
/// The kernel may have it made already: the link-local one.
pub fn add_address(index: u32, address: Address) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = family(address.ip);
    message.header.prefix_len = address.prefix;
    message.header.flags = AddressHeaderFlags::Nodad;
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(address.ip), AddressAttribute::Address(address.ip)];
    if let Some(broadcast) = address.broadcast() {
        message.attributes.push(AddressAttribute::Broadcast(broadcast));
    }
    let what = format!("take the address {}", address.ip);
    Request { what, message: Box::new(message), kind: libc::RTM_NEWADDR, flags: NLM_F_CREATE | NLM_F_REPLACE }
}

pub fn add_default_route(index: u32, gateway: IpAddr) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = family(gateway);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![RouteAttribute::Gateway(RouteAddress::from(gateway)), RouteAttribute::Oif(index)];
    let what = format!("use the gateway {gateway}");
    Request { what, message: Box::new(message), kind: libc::RTM_NEWROUTE, flags: NLM_F_CREATE | NLM_F_EXCL }
}

/// A message's length is a multiple of four, as the next one's beginning has to be.
fn append(bytes: &mut Vec<u8>, part: &dyn Emitable) {
    let begin = bytes.len();
    bytes.resize(begin + part.buffer_len(), 0);
    part.emit(bytes.get_mut(begin..).unwrap_or_default());
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
