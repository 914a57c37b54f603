//! The guest's network: the loopback interface, and those that the host gives the container.
//!
//! A template is made with the driver of every network device bound, which takes long under emulation; its interfaces
//! wait in a namespace of their own, *parked*. The container's namespace is the guest's first one: what is not used is
//! not there.

mod netlink;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
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

const OWN_NAMESPACE: &str = "/proc/self/ns/net";
/// What interfaces that are made from now on begin with: addresses are the host's to give, at once and for good.
const DEFAULTS: [(&str, &[u8]); 2] =
    [("/proc/sys/net/ipv6/conf/default/accept_ra", b"0"), ("/proc/sys/net/ipv6/conf/default/accept_dad", b"0")];

/// The network devices that have a driver, by slot.
#[derive(Default)]
pub struct Network {
    namespaces: Option<Namespaces>,
    parked: BTreeSet<String>,
    connected: Vec<(String, String)>,
}

struct Namespaces {
    home: Namespace,
    parked: Namespace,
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
}

impl Namespaces {
    fn make() -> rustix::io::Result<Namespaces> {
        let home = Namespace::own()?;
        // SAFETY: nothing here relies on the network namespace, which is the old one again below.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
        let parked = Namespace::own();
        rustix::thread::move_into_link_name_space(home.door.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(Namespaces { home, parked: parked? })
    }
}

impl Network {
    /// Binds the driver of every network device, and parks their interfaces.
    pub fn park_all(&mut self) -> Result<()> {
        for pci in device::network_devices() {
            let name = device::network(&pci)?;
            self.park(&pci, &name)?;
        }
        Ok(())
    }

    pub fn connect_all(&mut self, interfaces: &[Interface]) -> Result<()> {
        interfaces.iter().try_for_each(|interface| self.connect(interface))
    }

    /// Brings an interface up, with all that belongs to it.
    pub fn connect(&mut self, interface: &Interface) -> Result<()> {
        let Interface { pci, name, .. } = interface;
        if self.connected.iter().any(|(taken, _)| taken == pci) {
            return Err(Failure::new(Code::Conflict, format!("the network device {pci} is in use already")));
        }
        let plan = Plan::read(interface)?;
        let was_parked = self.parked.contains(pci);
        let old_name = if was_parked { parked_name(pci) } else { device::network(pci)? };
        self.connected.push((pci.clone(), name.clone()));
        let namespaces = namespaces(&mut self.namespaces)?;
        let (from, into) = match was_parked {
            true => (&namespaces.parked, Some(namespaces.home.door.as_fd())),
            false => (&namespaces.home, None),
        };
        let index = from.netlink.index(&old_name).during(format_args!("find the interface {old_name}"))?;
        from.netlink.carry_out(vec![netlink::bring_up(index, into, name, plan.mac, interface.mtu)])?;
        self.parked.remove(pci);
        let home = &namespaces.home.netlink;
        let index = home.index(name).during(format_args!("find the interface {name}"))?;
        let addresses = plan.addresses.into_iter().map(|address| netlink::add_address(index, address));
        let routes = plan.gateways.into_iter().map(|gateway| netlink::add_default_route(index, gateway));
        home.carry_out(addresses.chain(routes).collect())
    }

    /// Takes an interface away, whatever has become of it.
    pub fn disconnect(&mut self, pci: &str) -> Result<()> {
        let Some(place) = self.connected.iter().position(|(connected, _)| connected == pci) else {
            return Err(Failure::new(Code::NotFound, format!("the network device {pci} is not in use")));
        };
        let (_, name) = self.connected.remove(place);
        self.park(pci, &name)
    }

    /// Takes every interface away.
    pub fn disconnect_all(&mut self) -> Result<()> {
        for (pci, name) in std::mem::take(&mut self.connected) {
            self.park(&pci, &name)?;
        }
        Ok(())
    }

    fn park(&mut self, pci: &str, name: &str) -> Result<()> {
        let Namespaces { home, parked } = namespaces(&mut self.namespaces)?;
        let index = home.netlink.index(name).during(format_args!("find the interface {name}"))?;
        home.netlink.carry_out(vec![netlink::relocate(index, parked.door.as_fd(), &parked_name(pci))])?;
        self.parked.insert(pci.to_owned());
        Ok(())
    }
}

fn namespaces(made: &mut Option<Namespaces>) -> Result<&Namespaces> {
    match made {
        Some(namespaces) => Ok(namespaces),
        None => Ok(made.insert(Namespaces::make().during("make a network namespace")?)),
    }
}

/// An interface is called so while it is parked; a colon cannot be in a name.
fn parked_name(pci: &str) -> String {
    pci.replace(':', "-")
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
    fn a_mac_has_six_bytes() {
        assert_eq!(mac("02:42:0a:53:00:02"), Some([0x02, 0x42, 0x0a, 0x53, 0x00, 0x02]));
        for bad in ["02:42:0a:53:00", "02:42:0a:53:00:02:03", "02:42:0a:53:00:0g", ""] {
            assert_eq!(mac(bad), None, "{bad}");
        }
    }
}
