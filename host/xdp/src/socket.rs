//! An AF_XDP socket on one queue of an interface: its umem, its rings, and the system calls that
//! move them.
//!
//! Each socket registers the pool's rooms as a umem of its own, also when two ports of a lane have
//! the same pool: see docs/adr/0011-xdp-ports.md. Knows rooms by their address in the umem only.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING,
    XDP_UMEM_PGOFF_COMPLETION_RING, XDP_UMEM_PGOFF_FILL_RING, XdpDesc, XdpOptionsFlags,
    XdpStatistics, XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use weir_layout::BURST_AREA;
use weir_pool::Pool;

use crate::config::XdpConfig;
use crate::ring::{Consumer, Producer};

/// Packets that the kernel may take from the device in one system call of ours, when it polls the
/// device for us.
const BUSY_POLL_BUDGET: c_int = 64;
/// What a sent packet is charged: an skb of a whole page, with its bookkeeping.
const SENT_BYTES: usize = 8192;
/// In which the kernel has let go of a queue whose socket was closed, with room for a busy machine;
/// and when it is asked again.
const RELEASE: Duration = Duration::from_millis(500);
const AGAIN: Duration = Duration::from_millis(1);

/// See the module. Fields are dropped in order: no ring outlives its socket's last use.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) rx: Consumer<XdpDesc>,
    pub(crate) tx: Producer<XdpDesc>,
    pub(crate) fill: Producer<u64>,
    pub(crate) completion: Consumer<u64>,
    /// Whether the device reads and writes rooms itself.
    pub(crate) zero_copy: bool,
    fd: OwnedFd,
}

/// What a step of making a socket failed at.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) step: Step,
    pub(crate) error: io::Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Open,
    Umem,
    Rings,
    BusyPoll,
    Bind,
}

impl Step {
    fn failed<E: Into<io::Error>>(self) -> impl Fn(E) -> Failed {
        move |error| Failed { step: self, error: error.into() }
    }
}

/// Opens an AF_XDP socket, which does nothing yet.
pub(crate) fn open() -> Result<OwnedFd, Failed> {
    net::socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None)
        .map_err(Step::Open.failed())
}

impl Socket {
    /// Opens a socket on the configured queue of an interface, whose umem is the pool's rooms.
    pub(crate) fn new(index: u32, config: &XdpConfig, pool: &Pool) -> Result<Self, Failed> {
        let fd = open()?;
        let umem = XdpUmemReg {
            addr: pool.memory().as_ptr() as u64 + BURST_AREA as u64,
            len: u64::from(pool.rooms()) * u64::from(pool.room_bytes()),
            chunk_size: pool.room_bytes(),
            headroom: 0,
            flags: XdpUmemRegFlags::empty(),
            tx_metadata_len: 0,
        };
        sockopt::set_xdp_umem_reg(&fd, umem).map_err(Step::Umem.failed())?;

        let (rx, tx) = (config.rx_ring, config.tx_ring);
        let rings = Step::Rings.failed::<Errno>();
        sockopt::set_xdp_umem_fill_ring_size(&fd, rx).map_err(&rings)?;
        sockopt::set_xdp_umem_completion_ring_size(&fd, tx).map_err(&rings)?;
        sockopt::set_xdp_rx_ring_size(&fd, rx).map_err(&rings)?;
        sockopt::set_xdp_tx_ring_size(&fd, tx).map_err(&rings)?;
        let at = sockopt::xdp_mmap_offsets(&fd).map_err(&rings)?;
        let (socket, rings) = (fd.as_fd(), Step::Rings.failed::<io::Error>());
        let rx_ring = Consumer::map(socket, XDP_PGOFF_RX_RING, &at.rx, rx).map_err(&rings)?;
        let tx_ring = Producer::map(socket, XDP_PGOFF_TX_RING, &at.tx, tx).map_err(&rings)?;
        let fill = Producer::map(socket, XDP_UMEM_PGOFF_FILL_RING, &at.fr, rx).map_err(&rings)?;
        let completion =
            Consumer::map(socket, XDP_UMEM_PGOFF_COMPLETION_RING, &at.cr, tx).map_err(&rings)?;

        // Packets under way are charged to the socket; it may have its ring full of them. Without
        // the privilege for it the machine's ordinary limit holds, and sending is tried more often.
        let _ = sockopt::set_socket_send_buffer_size_force(&fd, tx as usize * SENT_BYTES);
        if let Some(micros) = config.busy_poll {
            let micros = c_int::try_from(micros).unwrap_or(c_int::MAX);
            for (option, value) in [
                (libc::SO_PREFER_BUSY_POLL, 1),
                (libc::SO_BUSY_POLL, micros),
                (libc::SO_BUSY_POLL_BUDGET, BUSY_POLL_BUDGET),
            ] {
                set_option(socket, option, value).map_err(Step::BusyPoll.failed())?;
            }
        }
        // Asked for neither, the kernel takes zero-copy where the driver has it, else it copies.
        let flags = SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP;
        bind(&fd, &SocketAddrXdp::new(flags, index, config.queue)).map_err(Step::Bind.failed())?;
        let options = sockopt::xdp_options(&fd).map_err(Step::Bind.failed())?;
        let zero_copy = options.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY);
        Ok(Self { rx: rx_ring, tx: tx_ring, fill, completion, zero_copy, fd })
    }

    /// Lets the kernel send what is in the tx ring: all of it, or some packets, in copy mode; else
    /// the device is told.
    pub(crate) fn wake_tx(&self) -> Result<(), Errno> {
        net::send(&self.fd, &[], SendFlags::DONTWAIT).map(drop)
    }

    /// Lets the kernel look at the fill ring, and poll the device if it is to.
    pub(crate) fn wake_rx(&self) -> Result<(), Errno> {
        net::recv(&self.fd, &mut [0u8; 0][..], RecvFlags::DONTWAIT).map(drop)
    }

    /// What the kernel counted since the socket was made.
    pub(crate) fn statistics(&self) -> Option<XdpStatistics> {
        sockopt::xdp_statistics(&self.fd).ok()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Takes a queue. The socket that had it may have been closed a moment ago: the kernel lets go of
/// it in the background.
fn bind(socket: &OwnedFd, queue: &SocketAddrXdp) -> Result<(), Errno> {
    let started = Instant::now();
    loop {
        match net::bind(socket, queue) {
            Err(Errno::BUSY) if started.elapsed() < RELEASE => std::thread::sleep(AGAIN),
            bound => return bound,
        }
    }
}

/// Sets an option of `SOL_SOCKET` that is a number.
fn set_option(socket: BorrowedFd<'_>, option: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the kernel reads one `c_int` at the address of `value`.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
