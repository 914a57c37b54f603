//! Capabilities of a container's process: what the host lists, and nothing else.

use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::failure::{During, Failure, Result};

/// Names of <linux/capability.h> by number.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Capabilities as a bit mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    pub fn from_names(names: &[String]) -> Result<Capabilities> {
        names.iter().try_fold(Capabilities(0), |Capabilities(mask), name| {
            let number = NAMES.iter().position(|known| known == name);
            let number = number.ok_or_else(|| Failure::start(format!("unknown capability: {name}")))?;
            Ok(Capabilities(mask | 1 << number))
        })
    }

    /// Takes everything else out of the bounding set; needs SETPCAP.
    pub fn bound(self) -> Result<()> {
        // The kernel may know fewer capabilities than we (EINVAL tells), or more: those go as well.
        for number in 0..u64::BITS {
            // SAFETY: PR_CAPBSET_DROP takes a number and touches no memory.
            let dropped =
                self.0 & 1 << number != 0 || unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) } == 0;
            if !dropped {
                break;
            }
        }
        Ok(())
    }

    /// Makes these permitted and effective (for a user other than root, what execve(2) would leave: none).
    /// The inheritable and ambient sets stay empty, as Docker's have since CVE-2022-24769.
    pub fn apply(self, uid: u32) -> Result<()> {
        let mask = if uid == 0 { CapabilitySet::from_bits_retain(self.0) } else { CapabilitySet::empty() };
        let sets = CapabilitySets { effective: mask, permitted: mask, inheritable: CapabilitySet::empty() };
        rustix::thread::set_capabilities(None, sets).during("set the capabilities")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_s_default_set_has_docker_s_mask() {
        let names = [
            "CHOWN",
            "DAC_OVERRIDE",
            "FSETID",
            "FOWNER",
            "MKNOD",
            "NET_RAW",
            "SETGID",
            "SETUID",
            "SETFCAP",
            "SETPCAP",
            "NET_BIND_SERVICE",
            "SYS_CHROOT",
            "KILL",
            "AUDIT_WRITE",
        ]
        .map(str::to_string);
        assert_eq!(Capabilities::from_names(&names), Ok(Capabilities(0xa804_25fb)));
    }

    #[test]
    fn an_unknown_capability_is_refused() {
        assert_eq!(Capabilities::from_names(&["FLY".into()]).unwrap_err().message, "unknown capability: FLY");
    }
}
