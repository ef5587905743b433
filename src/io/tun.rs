//! The TUN device of a network.
//!
//! Two ways lead to one: **tun-rs** opens it with `IFF_VNET_HDR` and asks for TCP (and, from Linux
//! 6.2, UDP) segmentation offload, so that one `read` gives up to 64 KiB of one flow behind a
//! 10-byte `virtio_net_hdr`; where the kernel or a container refuses that, or the user said
//! `--no-offload`, **tun-tap** opens the plain device, one packet a `read`. Both crates only open
//! and set up: afterwards a [`TunQueue`] is a file descriptor that we read and write ourselves,
//! because both crates would copy (one allocation a packet) on top of the system call.
//!
//! The device is not persistent: it vanishes with its last descriptor, however the process ends.
//! That is also why a name that exists is an error and never adopted. With one queue
//! `IFF_MULTI_QUEUE` is not set: with it the kernel attaches a second process to the same device
//! without a word.
//!
//! Addresses, link state, offload sizes are [`super::netlink`]'s; the MTU is set here too, so that
//! no packet larger than it can be read before the first `configure`.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use tun_rs::{DeviceBuilder, SyncDevice};

/// Length of the `virtio_net_hdr` in front of each frame of a queue with offload (virtio 1.2,
/// 5.1.6, without `num_buffers`).
pub const VNET_HDR_LEN: usize = 10;

/// The longest frame that a `read` can give: `virtio_net_hdr` and a 64 KiB IP packet.
pub const MAX_FRAME_LEN: usize = VNET_HDR_LEN + 65_535;

/// The longest name of a link (`IFNAMSIZ` less its zero).
const MAX_NAME_LEN: usize = 15;

/// The kernel's limit of queues of one device (`MAX_TAP_QUEUES`).
const MAX_QUEUES: usize = 256;

/// Where the kernel offers TUN devices.
const DEVICE_NODE: &str = "/dev/net/tun";

/// How to open a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunOptions {
    /// The MTU, in bytes; at least 1,280, below which the kernel takes IPv6 off a link.
    pub mtu: u16,
    /// Ask for `virtio_net_hdr` and segmentation offload; refused is not an error.
    pub offload: bool,
    /// How many queues; the plain device has one whatever this says.
    pub queues: usize,
}

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// `/dev/net/tun` does not exist, or its driver is not loaded.
    #[error("/dev/net/tun is missing: load the tun module or give the container the device")]
    NoDeviceNode,
    /// Not root, no `CAP_NET_ADMIN`, or a container that forbids the device.
    #[error(
        "not permitted to make the interface {0}: the agent needs CAP_NET_ADMIN and access to /dev/net/tun"
    )]
    NotPermitted(String),
    /// A link of that name exists.
    #[error(
        "the interface {0} exists already: remove it, or set another interface_prefix in the configuration"
    )]
    NameInUse(String),
    /// The kernel cannot name a link so.
    #[error("{0:?} cannot name an interface: 1 to 15 bytes, no slash, no space")]
    BadName(String),
    /// Anything else the kernel says.
    #[error("cannot make the interface {0}: {1}")]
    Kernel(String, #[source] io::Error),
}

/// An open device; it vanishes when all its queues are dropped.
#[derive(Debug)]
pub struct TunDevice {
    name: String,
    queues: Vec<TunQueue>,
    udp_offload: bool,
}

impl TunDevice {
    /// Makes the device `name`, down and without addresses.
    pub fn open(name: &str, options: TunOptions) -> Result<Self, TunError> {
        check_name(name)?;
        if !Path::new(DEVICE_NODE).exists() {
            // tun-rs would make the node itself, which hides what is wrong with a container.
            return Err(TunError::NoDeviceNode);
        }
        if link_exists(name) {
            return Err(TunError::NameInUse(name.to_owned()));
        }
        if !options.offload {
            return Self::open_plain(name, options.mtu);
        }
        match Self::open_offloaded(name, options) {
            Ok(device) => Ok(device),
            // Whatever was refused, the plain device asks for less; its error is the one to tell.
            Err(error) => {
                let plain = Self::open_plain(name, options.mtu)?;
                tracing::info!(%name, %error, "no offload on this device");
                Ok(plain)
            }
        }
    }

    /// The name of the link.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The queues, at least one; each belongs to one thread.
    pub fn queues(&self) -> &[TunQueue] {
        &self.queues
    }

    /// Hands the queues out, each to its thread.
    pub fn into_queues(self) -> Vec<TunQueue> {
        self.queues
    }

    /// Whether frames carry a `virtio_net_hdr` and TCP segments may come and go merged.
    pub fn offload(&self) -> bool {
        self.queues.iter().all(TunQueue::has_vnet_header)
    }

    /// Whether UDP datagrams may be merged too (Linux 6.2).
    pub fn udp_offload(&self) -> bool {
        self.udp_offload
    }

    fn open_offloaded(name: &str, options: TunOptions) -> io::Result<Self> {
        let queues = options.queues.clamp(1, MAX_QUEUES);
        let first = DeviceBuilder::new()
            .name(name)
            .mtu(options.mtu)
            .enable(false)
            .offload(true)
            .multi_queue(queues > 1)
            .build_sync()?;
        let udp_offload = first.udp_gso();
        let mut devices = Vec::with_capacity(queues);
        for _ in 1..queues {
            devices.push(first.try_clone()?);
        }
        devices.insert(0, first);
        let queues = devices
            .into_iter()
            .map(|device| {
                let vnet_header = device.tcp_gso();
                TunQueue::new(owned(device), vnet_header)
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { name: name.to_owned(), queues, udp_offload })
    }

    fn open_plain(name: &str, mtu: u16) -> Result<Self, TunError> {
        let failed = |error| refine(name, error);
        let plain =
            tun_tap::Iface::without_packet_info(name, tun_tap::Mode::Tun).map_err(failed)?;
        // SAFETY: the descriptor is open, ours alone, and a TUN device with IFF_NO_PI and without
        // IFF_VNET_HDR, which is what from_fd asks for.
        let device = unsafe { SyncDevice::from_fd(plain.into_raw_fd()) }.map_err(failed)?;
        device.set_mtu(mtu).map_err(failed)?;
        let queue = TunQueue::new(owned(device), false).map_err(failed)?;
        Ok(Self { name: name.to_owned(), queues: vec![queue], udp_offload: false })
    }
}

/// One queue: a non-blocking descriptor for one thread.
#[derive(Debug)]
pub struct TunQueue {
    fd: OwnedFd,
    vnet_header: bool,
}

impl TunQueue {
    fn new(fd: OwnedFd, vnet_header: bool) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self { fd, vnet_header })
    }

    /// Reads one frame: a packet that the host sends into the network, behind its
    /// `virtio_net_hdr` if [`has_vnet_header`](Self::has_vnet_header). A buffer shorter than
    /// [`MAX_FRAME_LEN`] cuts long frames silently. `WouldBlock` when there is none; `EBADFD` and
    /// `ENODEV` when the device is gone.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut *buffer))?)
    }

    /// Writes one frame: a packet for the host, behind its `virtio_net_hdr` if this queue has
    /// them. `EIO` while the link is down; `EINVAL` for what is no packet, or an offload the
    /// kernel does not take.
    pub fn write(&self, frame: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::retry_on_intr(|| rustix::io::write(&self.fd, frame))?)
    }

    /// Writes one frame that lies in pieces.
    pub fn write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(rustix::io::retry_on_intr(|| rustix::io::writev(&self.fd, pieces))?)
    }

    /// Whether each frame begins with a `virtio_net_hdr` of [`VNET_HDR_LEN`] bytes.
    pub fn has_vnet_header(&self) -> bool {
        self.vnet_header
    }
}

impl AsFd for TunQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Takes the descriptor out of the device, which knows nothing else that must live on.
fn owned(device: SyncDevice) -> OwnedFd {
    // SAFETY: into_raw_fd gives up the descriptor, which is open and now ours alone.
    unsafe { OwnedFd::from_raw_fd(device.into_raw_fd()) }
}

fn check_name(name: &str) -> Result<(), TunError> {
    let printable = name.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%'));
    let sized = (1..=MAX_NAME_LEN).contains(&name.len());
    if sized && printable && name != "." && name != ".." {
        Ok(())
    } else {
        Err(TunError::BadName(name.to_owned()))
    }
}

/// Whether a link of that name exists.
pub fn link_exists(name: &str) -> bool {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .and_then(|socket| rustix::net::netdevice::name_to_index(&socket, name))
        .is_ok()
}

/// Says what an error of the kernel means for the user.
fn refine(name: &str, error: io::Error) -> TunError {
    match Errno::from_io_error(&error) {
        Some(Errno::PERM | Errno::ACCESS) => TunError::NotPermitted(name.to_owned()),
        Some(Errno::BUSY | Errno::EXIST) => TunError::NameInUse(name.to_owned()),
        Some(Errno::NOENT | Errno::NODEV | Errno::NXIO) => TunError::NoDeviceNode,
        _ if link_exists(name) => TunError::NameInUse(name.to_owned()),
        _ => TunError::Kernel(name.to_owned(), error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_would_change_are_refused() {
        for bad in ["", "a/b", "tun%d", "..", "sixteen-bytes-xx", "a b", "gin\u{e9}", "a:0"] {
            assert!(matches!(check_name(bad), Err(TunError::BadName(_))), "{bad:?}");
        }
        assert!(check_name("ginnel0").is_ok());
        assert!(check_name("fifteen-bytes-x").is_ok());
    }

    #[test]
    fn errors_of_the_kernel_become_sentences() {
        let sentence = |errno: Errno| refine("nosuchlink0", errno.into()).to_string();
        assert!(sentence(Errno::PERM).contains("CAP_NET_ADMIN"));
        assert!(sentence(Errno::BUSY).contains("exists already"));
        assert!(sentence(Errno::NODEV).contains("load the tun module"));
        assert!(sentence(Errno::NOMEM).contains("nosuchlink0"));
    }
}
