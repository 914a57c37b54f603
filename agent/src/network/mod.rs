//! The guest's network: the loopback interface, and those that the host gives the container.
//!
//! A template is made with the driver of every network device bound, which takes long under emulation; its interfaces
//! wait in a namespace of their own, *parked*. The container's namespace is the guest's first one: what is not used is
//! not there.

mod netlink;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::str::FromStr;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::device;
use crate::failure::{Code, During, Failure, Result};
use crate::message::Interface;
use netlink::Netlink;

/// That of the thread: it need not be the process's.
const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";
/// What interfaces that are made from now on begin with: addresses are the host's to give, at once and for good.
const DEFAULTS: [(&str, &[u8]); 2] =
    [("/proc/sys/net/ipv6/conf/default/accept_ra", b"0"), ("/proc/sys/net/ipv6/conf/default/accept_dad", b"0")];

/// The network devices that have a driver, by slot.
#[derive(Default)]
pub struct Network {
    /// The container's namespace, which is ours, and that of interfaces which are not used; made when they are needed.
    home: Option<Namespace>,
    parked: Option<Namespace>,
    devices: BTreeMap<String, Device>,
}

struct Device {
    /// What its interface was called last; the container may call it otherwise by now.
    name: String,
    /// The interface's number in the namespace that it is in.
    index: u32,
    is_parked: bool,
}

struct Namespace {
    door: OwnedFd,
    netlink: Netlink,
}

impl Namespace {
    /// The one that the caller is in.
    fn own() -> rustix::io::Result<Namespace> {
        let door = rustix::fs::open(OWN_NAMESPACE, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Namespace { door, netlink: Netlink::open()? })
    }

    /// A new one, with nothing in it but a loopback interface that is down; the caller goes back `home`.
    fn make(home: &Namespace) -> rustix::io::Result<Namespace> {
        // SAFETY: nothing here relies on the network namespace, which is the old one again below.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
        let made = Namespace::own();
        rustix::thread::move_into_link_name_space(home.door.as_fd(), Some(LinkNameSpaceType::Network))?;
        made
    }

    /// The number that an interface has here.
    fn index(&self, name: &str) -> Result<u32> {
        self.netlink.index(name).during(format_args!("find the interface {name}"))
    }
}

impl Network {
    /// Binds the driver of every network device, and parks their interfaces.
    ///
    /// They get the names there that they are likely to have in a container: renaming one costs 10 ms under emulation.
    pub fn park_all(&mut self) -> Result<()> {
        for (number, pci) in device::network_devices().into_iter().enumerate() {
            let name = format!("eth{number}");
            let index = self.bind(&pci)?;
            self.park(&pci, Device { name, index, is_parked: false })?;
        }
        Ok(())
    }

    /// Brings several interfaces up while `other` is done: what takes time is that the kernel waits for itself.
    ///
    /// The thread is gone afterwards: none is there when anything is forked.
    pub fn connect_while<T>(&mut self, interfaces: &[Interface], other: impl FnOnce() -> T) -> (Result<()>, T) {
        std::thread::scope(|scope| {
            let connecting = scope.spawn(|| interfaces.iter().try_for_each(|interface| self.connect(interface)));
            let result = other();
            let gone = |_| Err(Failure::new(Code::AgentFailed, "the network's thread has ended"));
            (connecting.join().unwrap_or_else(gone), result)
        })
    }

    /// Brings an interface up, with all that belongs to it.
    pub fn connect(&mut self, interface: &Interface) -> Result<()> {
        let Interface { pci, name, .. } = interface;
        let plan = Plan::read(interface)?;
        let (index, was_parked) = match self.devices.get(pci) {
            Some(Device { is_parked: false, .. }) => {
                return Err(Failure::new(Code::Conflict, format!("the network device {pci} is in use already")));
            }
            Some(device) => (device.index, true),
            None => (self.bind(pci)?, false),
        };
        let home = home(&mut self.home)?;
        let (from, into) = match &self.parked {
            Some(parked) if was_parked => (parked, Some(home.door.as_fd())),
            _ => (home, None),
        };
        from.netlink.carry_out(vec![netlink::bring_up(index, into, name, plan.mac, interface.mtu)])?;
        let index = home.index(name)?;
        let device = Device { name: name.clone(), index, is_parked: false };
        // The kernel would make the link-local address, too, but not before it has noticed the link.
        let has_ipv6 = plan.addresses.iter().any(|address| address.ip.is_ipv6());
        let own = has_ipv6.then(|| Address::link_local(plan.mac));
        let addresses = plan.addresses.into_iter().chain(own).map(|address| netlink::add_address(index, address));
        let routes = plan.gateways.into_iter().map(|gateway| netlink::add_default_route(index, gateway));
        match home.netlink.carry_out(addresses.chain(routes).collect()) {
            Ok(()) => {
                self.devices.insert(pci.clone(), device);
                Ok(())
            }
            Err(failure) => {
                self.park(pci, device)?;
                Err(failure)
            }
        }
    }

    /// Takes an interface away, whatever has become of it.
    pub fn disconnect(&mut self, pci: &str) -> Result<()> {
        match self.devices.remove(pci) {
            Some(device) if !device.is_parked => self.park(pci, device),
            unused => {
                self.devices.extend(unused.map(|device| (pci.to_owned(), device)));
                Err(Failure::new(Code::NotFound, format!("the network device {pci} is not in use")))
            }
        }
    }

    /// Takes every interface away.
    pub fn disconnect_all(&mut self) -> Result<()> {
        let in_use = self.devices.iter().filter(|(_, device)| !device.is_parked).map(|(pci, _)| pci.clone());
        in_use.collect::<Vec<_>>().iter().try_for_each(|pci| self.disconnect(pci))
    }

    /// Binds a device's driver; the number of its interface.
    fn bind(&mut self, pci: &str) -> Result<u32> {
        let name = device::network(pci)?;
        home(&mut self.home)?.index(&name)
    }

    fn park(&mut self, pci: &str, device: Device) -> Result<()> {
        let home = home(&mut self.home)?;
        let parked = match &self.parked {
            Some(parked) => parked,
            None => self.parked.insert(Namespace::make(home).during("make a network namespace")?),
        };
        home.netlink.carry_out(vec![netlink::relocate(device.index, parked.door.as_fd(), &device.name)])?;
        let index = parked.index(&device.name)?;
        self.devices.insert(pci.to_owned(), Device { index, is_parked: true, ..device });
        Ok(())
    }
}

fn home(opened: &mut Option<Namespace>) -> Result<&Namespace> {
    match opened {
        Some(home) => Ok(home),
        None => Ok(opened.insert(Namespace::own().during("open the network namespace")?)),
    }
}

/// What a request says about an interface, understood.
struct Plan {
    mac: [u8; 6],
    addresses: Vec<Address>,
    gateways: Vec<IpAddr>,
}

impl Plan {
    fn read(interface: &Interface) -> Result<Plan> {
        let refused = |what: &str| Failure::new(Code::InvalidRequest, format!("{what} is no address"));
        Ok(Plan {
            mac: mac(&interface.mac).ok_or_else(|| refused(&interface.mac))?,
            addresses: interface
                .addresses
                .iter()
                .map(|text| text.parse().map_err(|()| refused(text)))
                .collect::<Result<_>>()?,
            gateways: interface
                .gateways
                .iter()
                .map(|text| text.parse().map_err(|_| refused(text)))
                .collect::<Result<_>>()?,
        })
    }
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<std::result::Result<_, _>>().ok()?;
    bytes.try_into().ok()
}

/// An address with the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    ip: IpAddr,
    prefix: u8,
}

impl Address {
    /// That which the kernel makes of a MAC (RFC 4291, appendix A).
    fn link_local([a, b, c, d, e, f]: [u8; 6]) -> Address {
        let host = [a ^ 2, b, c, 0xff, 0xfe, d, e, f];
        let ip = Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(u64::from_be_bytes(host)));
        Address { ip: ip.into(), prefix: 64 }
    }

    fn broadcast(self) -> Option<Ipv4Addr> {
        match self.ip {
            IpAddr::V4(ip) if self.prefix < 31 => Some(Ipv4Addr::from_bits(ip.to_bits() | u32::MAX >> self.prefix)),
            _ => None,
        }
    }
}

impl FromStr for Address {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Address, ()> {
        let (ip, prefix) = text.split_once('/').ok_or(())?;
        let (ip, prefix): (IpAddr, u8) = (ip.parse().map_err(|_| ())?, prefix.parse().map_err(|_| ())?);
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        if prefix > longest { Err(()) } else { Ok(Address { ip, prefix }) }
    }
}

/// Makes the namespace what interfaces can come to.
pub fn prepare() -> rustix::io::Result<()> {
    for (setting, value) in DEFAULTS {
        let _ = device::write_attribute(setting, value); // a kernel without IPv6 has none
    }
    bring_up_loopback()
}

fn bring_up_loopback() -> rustix::io::Result<()> {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: all of the structure's members may be zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads a name and flags from the structure.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } {
        -1 => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_prefix_that_fits() {
        let address: Address = "10.83.0.2/16".parse().unwrap();
        assert_eq!(address.broadcast(), Some(Ipv4Addr::new(10, 83, 255, 255)));
        assert_eq!("fd00::2/64".parse::<Address>().unwrap().broadcast(), None);
        for bad in ["10.83.0.2", "10.83.0.2/33", "fd00::2/129", "10.83.0/16", "10.83.0.2/", "/16"] {
            assert_eq!(bad.parse::<Address>(), Err(()), "{bad}");
        }
    }

    #[test]
    fn a_link_local_address_has_the_mac_in_it() {
        let address = Address::link_local([0x02, 0x42, 0x0a, 0x53, 0x00, 0x02]);
        assert_eq!(address, "fe80::42:aff:fe53:2/64".parse().unwrap());
    }

    #[test]
    fn a_mac_has_six_bytes() {
        assert_eq!(mac("02:42:0a:53:00:02"), Some([0x02, 0x42, 0x0a, 0x53, 0x00, 0x02]));
        for bad in ["02:42:0a:53:00", "02:42:0a:53:00:02:03", "02:42:0a:53:00:0g", ""] {
            assert_eq!(mac(bad), None, "{bad}");
        }
    }
}
