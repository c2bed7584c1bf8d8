//! The gateway's side of all its hops: the program, its maps, and a pair of sockets for each
//! worker.
//!
//! The program runs where TCP sockets send, so each hop is a connection over the loopback
//! interface; nothing but its end goes through the TCP stack. The kernel charges redirected bytes
//! to nobody's send buffer, so nothing but the window of [`End`] bounds what is under way; for
//! workers, the program enforces it. A sender that the program has dropped once is not heard any
//! more, because the kernel keeps that verdict with the socket: right for a worker that breaks the
//! rules, and for the gateway's end of a worker that is gone.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fmt, io};

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues, SkStorage, SockHash};
use aya::programs::SkMsg;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use weir_hop_layout as layout;
use weir_hop_layout::{COUNTS_WORDS, Counts, ENDS_MAX, ROLE_GATEWAY, ROLE_WORKER};

use crate::end::End;
use crate::kernel;
use crate::numbers::{Number, Numbers};

/// Strangers that may connect to the listener of a pair before it is given up.
const STRANGERS: usize = 16;

/// What carries descriptors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// The `sk_msg` program.
    SkMsg,
    /// Pairs of Unix sockets, because the program cannot be had.
    Unix {
        /// Why not, and what to do; or that it was asked for.
        why: String,
    },
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SkMsg => f.write_str("sk_msg"),
            Self::Unix { why } => write!(f, "unix ({why})"),
        }
    }
}

/// Why there is no hop.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The program cannot be had.
    #[error("hops by sk_msg: {0}")]
    Program(String),
    /// There are too many.
    #[error("a hub has at most 65,535 workers at a time")]
    Numbers,
    /// There are too many.
    #[error("hop {hop}: a hub has at most {max} ends at a time; disconnect workers that are gone")]
    Full {
        /// Which one was to be.
        hop: u16,
        /// How many there can be.
        max: u32,
    },
    /// The kernel refuses a map's entry.
    #[error("hop {hop}: the map {map} does not take it: {problem}")]
    Map {
        /// Which hop.
        hop: u16,
        /// The map.
        map: &'static str,
        /// What the kernel said.
        problem: String,
    },
    /// No pair of sockets.
    #[error("hop {hop}: no pair of sockets: {problem}; is the loopback interface up?")]
    Sockets {
        /// Which hop.
        hop: u16,
        /// What the kernel said.
        problem: io::Error,
    },
}

/// What became of the messages of a hop's two ends since the hub began, whichever workers were
/// there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HopCounts {
    /// What the gateway sent.
    pub to_worker: Counts,
    /// What the worker sent.
    pub to_gateway: Counts,
}

/// See the module. Cheap to clone; the program goes with the last clone and the last end.
#[derive(Clone)]
pub struct Hub {
    carrier: Arc<Carrier>,
    kernel: Option<Arc<Kernel>>,
    numbers: Arc<Mutex<Numbers>>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("carrier", &self.carrier).finish_non_exhaustive()
    }
}

/// The worker's side of a pair, until its process has it.
#[derive(Debug)]
pub struct WorkerSocket {
    socket: OwnedFd,
    hop: u16,
    generation: u8,
    messages: bool,
}

impl WorkerSocket {
    pub(crate) fn new(socket: OwnedFd, hop: u16, generation: u8, messages: bool) -> Self {
        Self { socket, hop, generation, messages }
    }

    /// The worker's number.
    #[must_use]
    pub fn hop(&self) -> u16 {
        self.hop
    }

    /// The lower eight bits of the worker's generation.
    #[must_use]
    pub fn generation(&self) -> u8 {
        self.generation
    }

    pub(crate) fn messages(&self) -> bool {
        self.messages
    }

    /// Makes it an end, in the process that is the worker.
    #[must_use]
    pub fn open(self) -> End {
        End::new(self.socket, self.hop, self.generation, self.messages, None)
    }
}

impl AsFd for WorkerSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Default for Hub {
    fn default() -> Self {
        Self::new()
    }
}

impl Hub {
    /// A hub by the `sk_msg` program, or by Unix sockets where that cannot be had: see
    /// [`Hub::carrier`].
    #[must_use]
    pub fn new() -> Self {
        Self::sk_msg().unwrap_or_else(|error| {
            tracing::info!("{error}: Unix sockets are used");
            let carrier = Arc::new(Carrier::Unix { why: error.to_string() });
            Self { carrier, kernel: None, numbers: Arc::default() }
        })
    }

    /// A hub by the `sk_msg` program.
    ///
    /// # Errors
    /// Without the program, CAP_BPF and CAP_NET_ADMIN, or with an old kernel.
    pub fn sk_msg() -> Result<Self, HubError> {
        let kernel = Kernel::load().map_err(HubError::Program)?;
        let (carrier, kernel) = (Arc::new(Carrier::SkMsg), Some(Arc::new(kernel)));
        Ok(Self { carrier, kernel, numbers: Arc::default() })
    }

    /// A hub by Unix sockets.
    #[must_use]
    pub fn unix() -> Self {
        let carrier = Carrier::Unix { why: "as asked for".into() };
        Self { carrier: Arc::new(carrier), kernel: None, numbers: Arc::default() }
    }

    /// What carries descriptors.
    #[must_use]
    pub fn carrier(&self) -> &Carrier {
        &self.carrier
    }

    /// A number for a worker and those that come after it.
    ///
    /// # Errors
    /// When none is free.
    pub fn number(&self) -> Result<Number, HubError> {
        Numbers::take(&self.numbers).ok_or(HubError::Numbers)
    }

    /// A pair of ends for the worker of this number: the gateway's, and what its process is to get.
    /// If there was one with this number, its route leads to the new one at once, and what the old
    /// one still says is dropped.
    ///
    /// # Errors
    /// See [`HubError`].
    pub fn connect_worker(
        &self,
        hop: u16,
        generation: u64,
    ) -> Result<(End, WorkerSocket), HubError> {
        let generation = generation as u8;
        let sockets = |problem| HubError::Sockets { hop, problem };
        let Some(kernel) = &self.kernel else {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None);
            let (gateway, worker) = pair.map_err(|error| sockets(error.into()))?;
            let gateway = End::new(gateway, hop, generation, false, None);
            return Ok((gateway, WorkerSocket::new(worker, hop, generation, false)));
        };
        let (gateway, worker) = tcp_pair().map_err(sockets)?;
        let registration = Kernel::register(kernel, hop, generation, &gateway, &worker)?;
        let gateway = End::new(gateway, hop, generation, true, Some(registration));
        Ok((gateway, WorkerSocket::new(worker, hop, generation, true)))
    }

    /// What the program counted for the workers of this number; `None` where there is no program.
    #[must_use]
    pub fn counts(&self, hop: u16) -> Option<HopCounts> {
        let maps = lock(&self.kernel.as_ref()?.maps);
        let mut counts = maps.past.get(&hop).copied().unwrap_or_default();
        for (gateway, worker) in maps.hops.iter().filter(|of| of.hop == hop).map(|of| of.keys) {
            add(&mut counts.to_worker, &maps.read(gateway));
            add(&mut counts.to_gateway, &maps.read(worker));
        }
        Some(counts)
    }
}

/// The program and its maps.
pub(crate) struct Kernel {
    maps: Mutex<Maps>,
    /// Behind the maps: the program goes last.
    _ebpf: Ebpf,
}

struct Maps {
    sockets: SockHash<MapData, u32>,
    keys: SkStorage<MapData, u32>,
    ends: Array<MapData, [u64; 4]>,
    routes: HashMap<MapData, u32, u32>,
    counts: PerCpuArray<MapData, [u64; COUNTS_WORDS]>,
    /// Keys that nobody has, the next one last.
    free: Vec<u32>,
    hops: Vec<Keys>,
    /// What hops that are gone have counted.
    past: BTreeMap<u16, HopCounts>,
}

/// The keys of a pair.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Keys {
    hop: u16,
    /// The gateway's, the worker's.
    keys: (u32, u32),
}

/// Takes a pair's entries out of the maps when it is dropped.
pub(crate) struct Registration {
    kernel: Arc<Kernel>,
    keys: Keys,
}

impl Drop for Registration {
    fn drop(&mut self) {
        lock(&self.kernel.maps).forget(self.keys);
    }
}

impl Kernel {
    fn load() -> Result<Self, String> {
        let mut ebpf = kernel::load()?;
        let mut take =
            |name: &str| ebpf.take_map(name).ok_or_else(|| format!("the object has no map {name}"));
        let wrong = |error| format!("a map of the object is not as this host has it: {error}");
        let maps = Maps {
            sockets: SockHash::try_from(take(layout::SOCKETS)?).map_err(wrong)?,
            keys: SkStorage::try_from(take(layout::KEYS)?).map_err(wrong)?,
            ends: Array::try_from(take(layout::ENDS)?).map_err(wrong)?,
            routes: HashMap::try_from(take(layout::ROUTES)?).map_err(wrong)?,
            counts: PerCpuArray::try_from(take(layout::COUNTS)?).map_err(wrong)?,
            free: (0..ENDS_MAX).rev().collect(),
            hops: Vec::new(),
            past: BTreeMap::new(),
        };
        let program = ebpf.program_mut(layout::PROGRAM);
        let program = program.and_then(|program| <&mut SkMsg>::try_from(program).ok());
        let program =
            program.ok_or_else(|| format!("the object has no program {}", layout::PROGRAM))?;
        let refused = |error: aya::programs::ProgramError| {
            format!("the kernel refuses the program: {}", kernel::chain(&error))
        };
        program.load().map_err(refused)?;
        program.attach(maps.sockets.fd()).map_err(refused)?;
        Ok(Self { maps: Mutex::new(maps), _ebpf: ebpf })
    }

    fn register(
        kernel: &Arc<Self>,
        hop: u16,
        generation: u8,
        gateway: &OwnedFd,
        worker: &OwnedFd,
    ) -> Result<Registration, HubError> {
        let mut maps = lock(&kernel.maps);
        if maps.free.len() < 2 {
            return Err(HubError::Full { hop, max: ENDS_MAX });
        }
        let (Some(a), Some(b)) = (maps.free.pop(), maps.free.pop()) else {
            return Err(HubError::Full { hop, max: ENDS_MAX });
        };
        let keys = Keys { hop, keys: (a, b) };
        maps.hops.push(keys);
        let written = maps.write(keys, generation, gateway, worker);
        drop(maps);
        // Takes what was written out again if there is an error.
        let registration = Registration { kernel: Arc::clone(kernel), keys };
        written.map(|()| registration)
    }
}

impl Maps {
    /// The route last: it leads to an end that is there in full.
    fn write(
        &mut self,
        Keys { hop, keys: (a, b) }: Keys,
        generation: u8,
        gateway: &OwnedFd,
        worker: &OwnedFd,
    ) -> Result<(), HubError> {
        let refused = |map: &'static str| {
            move |error: aya::maps::MapError| HubError::Map {
                hop,
                map,
                problem: kernel::chain(&error),
            }
        };
        for (key, peer, role, socket) in
            [(a, b, ROLE_GATEWAY, gateway), (b, a, ROLE_WORKER, worker)]
        {
            let (hop, generation) = (u32::from(hop), u32::from(generation));
            let end = layout::End { role, peer, hop, generation, sent: 0, granted: 0 };
            // What whoever had the key has said since it was taken back is not this one's.
            let none = vec![[0; COUNTS_WORDS]; aya::util::nr_cpus().unwrap_or(1)];
            if let Ok(none) = PerCpuValues::try_from(none) {
                self.counts.set(key, none, 0).map_err(refused(layout::COUNTS))?;
            }
            self.ends.set(key, end.words(), 0).map_err(refused(layout::ENDS))?;
            self.keys.insert(socket, key, 0).map_err(refused(layout::KEYS))?;
            let entry = self.sockets.insert(key, socket.as_raw_fd(), 0);
            entry.map_err(refused(layout::SOCKETS))?;
        }
        self.routes.insert(u32::from(hop), b, 0).map_err(refused(layout::ROUTES))
    }

    fn forget(&mut self, of: Keys) {
        let Keys { hop, keys: (a, b) } = of;
        // What is not there any more went with its socket.
        if self.routes.get(&u32::from(hop), 0).is_ok_and(|key| key == b) {
            let _ = self.routes.remove(&u32::from(hop));
        }
        let (to_worker, to_gateway) = (self.read(a), self.read(b));
        for key in [b, a] {
            let _ = self.sockets.remove(&key);
            let _ = self.ends.set(key, layout::End::default().words(), 0);
            self.free.push(key);
        }
        let past = self.past.entry(hop).or_default();
        add(&mut past.to_worker, &to_worker);
        add(&mut past.to_gateway, &to_gateway);
        self.hops.retain(|keys| *keys != of);
    }

    fn read(&self, key: u32) -> Counts {
        let mut sum = Counts::default();
        if let Ok(values) = self.counts.get(&key, 0) {
            for words in values.iter() {
                add(&mut sum, &of_words(*words));
            }
        }
        sum
    }
}

fn of_words(
    [messages, descriptors, bytes, no_route, stale, refused, malformed, flooded]: [u64;
        COUNTS_WORDS],
) -> Counts {
    Counts { messages, descriptors, bytes, no_route, stale, refused, malformed, flooded }
}

fn add(sum: &mut Counts, more: &Counts) {
    sum.messages += more.messages;
    sum.descriptors += more.descriptors;
    sum.bytes += more.bytes;
    sum.no_route += more.no_route;
    sum.stale += more.stale;
    sum.refused += more.refused;
    sum.malformed += more.malformed;
    sum.flooded += more.flooded;
}

/// Two connected sockets over the loopback interface, non-blocking.
fn tcp_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let one = TcpStream::connect(listener.local_addr()?)?;
    for _ in 0..STRANGERS {
        let (other, from) = listener.accept()?;
        // Anybody may have connected.
        if from == one.local_addr()? {
            one.set_nonblocking(true)?;
            other.set_nonblocking(true)?;
            return Ok((one.into(), other.into()));
        }
    }
    Err(io::Error::other("others keep connecting to its listener"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::io::Errno;
    use rustix::net::{RecvFlags, SendFlags, recv, send};
    use weir_hop_layout::{BATCH, DESCRIPTOR, Descriptor, GRANTS, KIND_GRANT, WINDOW};

    use super::*;

    /// Needs CAP_BPF and CAP_NET_ADMIN.
    fn hub() -> Option<Hub> {
        Hub::sk_msg().inspect_err(|error| eprintln!("skipped: {error}")).ok()
    }

    fn of(hop: u16, generation: u8, exchange: u32) -> Vec<u8> {
        let descriptor = Descriptor { exchange, hop, generation, ..Descriptor::default() };
        descriptor.to_bytes().to_vec()
    }

    /// What a process can do that does not use [`End`].
    fn raw(socket: impl AsFd, bytes: &[u8]) -> Result<usize, Errno> {
        send(socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
    }

    fn take(socket: impl AsFd) -> Result<usize, Errno> {
        std::thread::sleep(Duration::from_millis(10));
        recv(socket, &mut [0; 4096][..], RecvFlags::DONTWAIT).map(|(read, _)| read)
    }

    #[test]
    fn the_gateway_reaches_each_worker_by_its_number() {
        let Some(hub) = hub() else { return };
        let (one, one_worker) = hub.connect_worker(1, 0).unwrap();
        let (_two, two_worker) = hub.connect_worker(2, 0).unwrap();
        assert_eq!(raw(&one, &of(2, 0, 5)), Ok(16));
        assert_eq!(take(&two_worker), Ok(16));
        assert_eq!(take(&one_worker), Err(Errno::AGAIN));
        assert_eq!(raw(&one, &[of(1, 0, 5), of(1, 0, 6)].concat()), Ok(32));
        assert_eq!(take(&one_worker), Ok(32));
        let counts = hub.counts(1).unwrap();
        let wanted = Counts { messages: 2, descriptors: 3, bytes: 48, ..Counts::default() };
        assert_eq!(counts.to_worker, wanted);
        assert_eq!(counts.to_gateway, Counts::default());
    }

    #[test]
    fn a_worker_reaches_its_gateway_and_no_other_worker() {
        let Some(hub) = hub() else { return };
        let (one, one_worker) = hub.connect_worker(1, 0).unwrap();
        let (two, two_worker) = hub.connect_worker(2, 0).unwrap();
        assert_eq!(raw(&one_worker, &of(1, 0, 5)), Ok(16));
        // A message whose first descriptor is right.
        assert_eq!(raw(&one_worker, &[of(1, 0, 6), of(2, 0, 7)].concat()), Ok(32));
        assert_eq!(take(&two_worker), Err(Errno::AGAIN));
        assert_eq!(take(&two), Err(Errno::AGAIN));
        let mut one = one;
        let mut got = Vec::new();
        assert_eq!(one.receive(&mut got).unwrap(), 2);
        assert_eq!(got.iter().map(|of| of.exchange).collect::<Vec<_>>(), [5, 6]);
        assert_eq!(one.discarded().foreign, 1);
        assert_eq!(raw(&one_worker, &of(2, 0, 8)), Err(Errno::ACCESS));
        assert_eq!(hub.counts(1).unwrap().to_gateway.refused, 1);
        assert_eq!(take(&two_worker), Err(Errno::AGAIN));
        // The kernel keeps that verdict: it is not heard any more.
        assert_eq!(raw(&one_worker, &of(1, 0, 9)), Err(Errno::ACCESS));
        assert_eq!(take(&one), Err(Errno::AGAIN));
    }

    #[test]
    fn a_message_without_a_route_is_dropped_and_counted() {
        let Some(hub) = hub() else { return };
        let (one, _one_worker) = hub.connect_worker(1, 0).unwrap();
        assert_eq!(raw(&one, &of(9, 0, 0)), Err(Errno::ACCESS));
        assert_eq!(hub.counts(1).unwrap().to_worker.no_route, 1);
        // The socket of the route is gone.
        let (mut two, two_worker) = hub.connect_worker(2, 0).unwrap();
        drop(two_worker);
        two.send(&[Descriptor::default()]).unwrap();
        assert_eq!(two.flush().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(hub.counts(2).unwrap().to_worker.no_route, 1);
    }

    #[test]
    fn messages_that_are_not_whole_descriptors_are_dropped_and_counted() {
        let Some(hub) = hub() else { return };
        for wrong in [vec![0; 1], vec![0; 15], vec![0; 17], vec![0; (BATCH + 1) * DESCRIPTOR]] {
            let (one, one_worker) = hub.connect_worker(1, 0).unwrap();
            assert_eq!(raw(&one_worker, &wrong), Err(Errno::ACCESS), "{} bytes", wrong.len());
            assert_eq!(take(&one), Err(Errno::AGAIN));
        }
        assert_eq!(hub.counts(1).unwrap().to_gateway.malformed, 4);
    }

    #[test]
    fn a_route_leads_to_the_next_generation_at_once_and_the_old_one_is_not_heard() {
        let Some(hub) = hub() else { return };
        let (old, old_worker) = hub.connect_worker(1, 5).unwrap();
        let (mut new, new_worker) = hub.connect_worker(1, 6).unwrap();
        // To the old one, which has no route; from the new one under the old one's number.
        assert_eq!(raw(&old, &of(1, 5, 0)), Err(Errno::ACCESS));
        assert_eq!(raw(&old_worker, &of(1, 6, 0)), Err(Errno::ACCESS));
        assert_eq!(take(&new_worker), Err(Errno::AGAIN));
        assert_eq!(take(&new), Err(Errno::AGAIN));
        assert_eq!(raw(&new, &of(1, 6, 0)), Ok(16));
        assert_eq!(take(&new_worker), Ok(16));
        assert_eq!(raw(&new_worker, &[of(1, 6, 1), of(1, 5, 2)].concat()), Ok(32));
        let mut got = Vec::new();
        assert_eq!(new.receive(&mut got).unwrap(), 1);
        assert_eq!(new.discarded().stale, 1);
        assert_eq!(raw(&new_worker, &of(1, 5, 3)), Err(Errno::ACCESS));
        // The old one's end takes the route of nobody else away.
        drop(old);
        assert_eq!(raw(&new, &of(1, 6, 0)), Ok(16));
        let counts = hub.counts(1).unwrap();
        assert_eq!((counts.to_worker.stale, counts.to_gateway.stale), (1, 2));
        assert_eq!(counts.to_worker.messages, 2);
    }

    #[test]
    fn a_worker_that_sends_without_end_is_stopped_by_the_program() {
        let Some(hub) = hub() else { return };
        let (mut one, one_worker) = hub.connect_worker(1, 0).unwrap();
        let message = of(1, 0, 0).repeat(BATCH);
        let mut sent = 0;
        while raw(&one_worker, &message).is_ok() {
            sent += BATCH as u32;
            assert!(sent <= WINDOW + GRANTS);
        }
        assert_eq!(sent, WINDOW + GRANTS);
        assert_eq!(hub.counts(1).unwrap().to_gateway.flooded, 1);
        let mut got = Vec::new();
        while one.receive(&mut got).is_ok() {}
        assert_eq!(got.len() as u32, sent);
    }

    #[test]
    fn a_worker_may_send_again_what_its_gateway_has_read_and_not_what_it_grants_itself() {
        let Some(hub) = hub() else { return };
        let (mut one, one_worker) = hub.connect_worker(1, 0).unwrap();
        let full = of(1, 0, 0).repeat(BATCH);
        for _ in 0..WINDOW as usize / BATCH {
            assert_eq!(raw(&one_worker, &full), Ok(full.len()));
        }
        let mut got = Vec::new();
        while one.receive(&mut got).is_ok() {}
        assert_eq!(got.len() as u32, WINDOW);
        for _ in 0..WINDOW as usize / BATCH {
            assert_eq!(raw(&one_worker, &full), Ok(full.len()));
        }
        let length = 1 << 30;
        let grant = Descriptor { hop: 1, kind: KIND_GRANT, length, ..Descriptor::default() };
        let grants = grant.to_bytes().repeat(BATCH);
        assert_eq!(raw(&one_worker, &grants), Ok(grants.len()));
        assert_eq!(raw(&one_worker, &full), Err(Errno::ACCESS));
        assert_eq!(hub.counts(1).unwrap().to_gateway.flooded, 1);
    }

    #[test]
    fn keys_are_used_again_when_workers_are_gone() {
        let Some(hub) = hub() else { return };
        for generation in 0..u64::from(ENDS_MAX) {
            let (mut one, worker) = hub.connect_worker(1, generation).unwrap();
            let mut worker = worker.open();
            one.send(&[Descriptor::default()]).unwrap();
            one.flush().unwrap();
            assert_eq!(worker.receive(&mut Vec::new()).unwrap(), 1);
        }
        let counts = hub.counts(1).unwrap().to_worker;
        assert_eq!(
            (counts.messages, counts.bytes),
            (u64::from(ENDS_MAX), u64::from(ENDS_MAX) * 16)
        );
    }

    #[test]
    fn without_the_program_unix_sockets_say_why() {
        let hub = Hub::unix();
        assert!(matches!(hub.carrier(), Carrier::Unix { .. }));
        assert!(hub.carrier().to_string().starts_with("unix ("));
        assert_eq!(hub.counts(1), None);
    }
}
