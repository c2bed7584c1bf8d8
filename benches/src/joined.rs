//! Two TCP connections that are one in the kernel: what a socket receives goes out at the other, by
//! an `sk_skb` program.
//!
//! Here to measure what that would cost, not for anybody's bytes: nothing bounds what is under way
//! to a slow reader but the kernel's memory for TCP, and a busy kernel has doubled bytes
//! (docs/adr/0016-hops.md).
//!
//! What sockmap leaves to its user is done here. Both sockets are targets before the program runs
//! for either. Bytes that lay in the receive queue before are set going (`SO_RCVLOWAT`). The end of
//! a stream is passed on only when the other socket has taken all bytes that came before it,
//! because they pass through a queue of the kernel's.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{HashMap, MapData, SockHash};
use aya::programs::SkSkb;
use rustix::event::epoll;
use rustix::net::sockopt::socket_cookie;
use rustix::net::{RecvFlags, Shutdown, recv, shutdown};
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use weir_hop_layout as layout;

/// How long it waits before it looks again whether the last bytes have gone, at first and at most.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_micros(100), Duration::from_millis(20));

static KERNEL: OnceLock<Result<Kernel, String>> = OnceLock::new();

struct Kernel {
    maps: Mutex<Maps>,
    _ebpf: Ebpf,
}

struct Maps {
    joined: SockHash<MapData, u64>,
    others: SockHash<MapData, u64>,
    bytes: HashMap<MapData, u64, u64>,
}

/// Two connections, joined until it is dropped.
pub struct Joined<'a> {
    kernel: &'static Kernel,
    sockets: [&'a TcpStream; 2],
    cookies: [u64; 2],
    /// What each socket had taken before.
    taken: [u64; 2],
    events: AsyncFd<OwnedFd>,
}

impl<'a> Joined<'a> {
    /// Joins them.
    ///
    /// # Errors
    /// If they cannot be joined: the kernel takes no socket whose peer has ended its stream.
    pub fn new(a: &'a TcpStream, b: &'a TcpStream) -> io::Result<Self> {
        // Its drop takes the entries out again.
        let joined = Self::prepare([a, b])?;
        joined.write().map_err(io::Error::other)?;
        for socket in joined.sockets {
            kick(socket.as_fd())?;
        }
        Ok(joined)
    }

    fn prepare(sockets: [&'a TcpStream; 2]) -> io::Result<Self> {
        let kernel = KERNEL.get_or_init(load).as_ref();
        let kernel = kernel.map_err(|problem| io::Error::other(problem.clone()))?;
        let [a, b] = sockets;
        let cookies = [socket_cookie(a)?, socket_cookie(b)?];
        let taken = [taken(a.as_fd())?, taken(b.as_fd())?];
        let events = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (number, socket) in (0..).zip(sockets) {
            // Nothing that bytes would wake.
            let flags = epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
            epoll::add(&events, socket, epoll::EventData::new_u64(number), flags)?;
        }
        // SAFETY: the file is owned by what is made here, and is the same as long.
        let events = unsafe { AsyncFd::register(events) }.map_err(io::Error::from)?;
        Ok(Self { kernel, sockets, cookies, taken, events })
    }

    /// The program does not run for them any more.
    fn stop(&self) {
        let mut maps = self.kernel.maps.lock().unwrap_or_else(PoisonError::into_inner);
        for cookie in &self.cookies {
            // What is not there went with its socket, or was never written.
            let _ = maps.joined.remove(cookie);
        }
    }

    fn write(&self) -> Result<(), String> {
        let mut maps = self.kernel.maps.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = |error: aya::maps::MapError| error.to_string();
        for (from, to) in [(0, 1), (1, 0)] {
            maps.bytes.insert(self.cookies[from], 0, 0).map_err(refused)?;
            let to = self.sockets[to].as_raw_fd();
            maps.others.insert(self.cookies[from], to, 0).map_err(refused)?;
        }
        for (cookie, socket) in self.cookies.iter().zip(self.sockets) {
            maps.joined.insert(*cookie, socket.as_raw_fd(), 0).map_err(refused)?;
        }
        Ok(())
    }

    /// How many bytes each socket has received.
    fn bytes(&self) -> [u64; 2] {
        let maps = self.kernel.maps.lock().unwrap_or_else(PoisonError::into_inner);
        self.cookies.map(|cookie| maps.bytes.get(&cookie, 0).unwrap_or(0))
    }

    /// Until both streams have ended, and all of them has gone.
    ///
    /// # Errors
    /// What either socket says.
    pub async fn ended(&self) -> io::Result<()> {
        let mut ended = [false; 2];
        while ended != [true; 2] {
            for (from, ended) in ended.iter_mut().enumerate() {
                if !*ended {
                    *ended = self.pass_end(from).await?;
                }
            }
            if ended == [true; 2] {
                break;
            }
            let mut ready = self.events.readable().await?;
            let mut events = [MaybeUninit::uninit(); 4];
            let none = rustix::time::Timespec::default();
            let _ = epoll::wait(self.events.get_ref(), &mut events, Some(&none));
            ready.clear_ready();
        }
        Ok(())
    }

    /// Whether this socket's stream has ended and the other one knows.
    async fn pass_end(&self, from: usize) -> io::Result<bool> {
        let (socket, other) = (self.sockets[from], self.sockets[1 - from]);
        let mut wait = LOOK_AGAIN.0;
        loop {
            if let Some(error) = socket.take_error()? {
                return Err(error);
            }
            match recv(socket, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
                Ok((0, _)) => {}
                // Bytes that the program has not been given.
                Ok(_) => kick(socket.as_fd())?,
                Err(rustix::io::Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            let gone = taken(other.as_fd())?.wrapping_sub(self.taken[1 - from]);
            let peeked = recv(socket, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
            if matches!(peeked, Ok((0, _))) && gone >= self.bytes()[from] {
                return match shutdown(other, Shutdown::Write) {
                    // The other side is gone already.
                    Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(true),
                    Err(error) => Err(error.into()),
                };
            }
            if let Some(error) = other.take_error()? {
                return Err(error);
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LOOK_AGAIN.1);
        }
    }
}

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        self.stop();
        let mut maps = self.kernel.maps.lock().unwrap_or_else(PoisonError::into_inner);
        for cookie in &self.cookies {
            let _ = maps.others.remove(cookie);
            let _ = maps.bytes.remove(cookie);
        }
    }
}

fn load() -> Result<Kernel, String> {
    let object = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf/message-hop.o");
    let mut ebpf = Ebpf::load_file(&object).map_err(|error| {
        format!("{}: {error}: run scripts/build-ebpf, as root what is measured", object.display())
    })?;
    let mut take =
        |name: &str| ebpf.take_map(name).ok_or_else(|| format!("the object has no map {name}"));
    let wrong = |error| format!("a map of the object is not as this host has it: {error}");
    let maps = Maps {
        joined: SockHash::try_from(take(layout::JOINED)?).map_err(wrong)?,
        others: SockHash::try_from(take(layout::OTHERS)?).map_err(wrong)?,
        bytes: HashMap::try_from(take(layout::JOINED_BYTES)?).map_err(wrong)?,
    };
    let program = ebpf.program_mut(layout::JOIN_PROGRAM);
    let program = program.and_then(|program| <&mut SkSkb>::try_from(program).ok());
    let program =
        program.ok_or_else(|| format!("the object has no program {}", layout::JOIN_PROGRAM))?;
    let refused = |error: aya::programs::ProgramError| error.to_string();
    program.load().map_err(refused)?;
    program.attach(maps.joined.fd()).map_err(refused)?;
    Ok(Kernel { maps: Mutex::new(maps), _ebpf: ebpf })
}

/// Has the kernel look at what lies in the receive queue.
fn kick(socket: BorrowedFd<'_>) -> io::Result<()> {
    let one: libc::c_int = 1;
    // SAFETY: the option takes an int, which is there.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const one).cast(),
            size_of_val(&one) as libc::socklen_t,
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How many bytes a TCP socket has taken to send, ever: `struct tcp_info` in `linux/tcp.h`.
fn taken(socket: BorrowedFd<'_>) -> io::Result<u64> {
    const NOT_SENT: usize = 144;
    const SENT: usize = 200;
    const SENT_AGAIN: usize = 208;
    let mut info = [0_u8; 256];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most as many bytes as there are.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if got != 0 {
        return Err(io::Error::last_os_error());
    }
    if (length as usize) < SENT_AGAIN + 8 {
        return Err(io::Error::other("the kernel does not say how much a socket has sent (5.0)"));
    }
    let long = |at: usize| info[at..at + 8].try_into().map_or(0, u64::from_ne_bytes);
    let not_sent = info[NOT_SENT..NOT_SENT + 4].try_into().map_or(0, u32::from_ne_bytes);
    Ok(long(SENT) - long(SENT_AGAIN) + u64::from(not_sent))
}
