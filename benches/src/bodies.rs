//! Clients and a server that send and take bodies as fast as they can, or at a rate. HTTP/1.1, a
//! thread for each connection.
//!
//! Owns: what is sent, in both framings, and counting what arrives. Must not know: what is between
//! the two.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes that are written at a time; bodies are a multiple of it.
const BLOCK: usize = 64 << 10;
/// How much a slow reader takes at a time.
const SIP: usize = 16 << 10;

/// Nothing takes a client so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a body's end is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// By its length, said before.
    Length,
    /// By chunks of 64 KiB.
    Chunked,
}

/// Which way a body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// With a request, to the upstream.
    Up,
    /// With a response, to the client.
    Down,
}

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Which way.
    pub way: Way,
    /// Bytes of a body.
    pub bytes: u64,
    /// How its end is told.
    pub framing: Framing,
    /// Clients, each with a connection of its own.
    pub clients: usize,
    /// Bytes a second that who takes a body takes of it; none: all there are.
    pub rate: Option<u64>,
}

/// Bytes of bodies that arrived, at whoever takes them.
type Arrived = Arc<AtomicU64>;

/// A server that sends bodies and takes them, for as long as the process runs.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub port: u16,
    arrived: Arrived,
}

impl Server {
    /// Starts it; its threads run where this one may.
    ///
    /// # Panics
    /// When there is no port.
    #[must_use]
    pub fn start() -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = socket.local_addr().expect("an address").port();
        let arrived = Arrived::default();
        let counted = Arc::clone(&arrived);
        std::thread::spawn(move || {
            for stream in socket.incoming().flatten() {
                let counted = Arc::clone(&counted);
                // That a client has gone is no error of the server's.
                std::thread::spawn(move || serve(stream, &counted));
            }
        });
        Self { port, arrived }
    }
}

/// Answers requests until the client has gone: for `/down/BYTES/...` with a body, for others
/// without one when theirs has come.
fn serve(stream: TcpStream, arrived: &Arrived) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(4 * BLOCK, stream);
    let never = AtomicBool::new(false);
    loop {
        let head = Head::read(&mut reader)?;
        let words: Vec<&str> = head.first.split([' ', '/']).collect();
        // METHOD, nothing, WAY, BYTES, FRAMING, RATE
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
        let (bytes, rate) = (number(3).unwrap_or(0), number(5));
        if words.get(2) == Some(&"down") {
            let framing =
                if words.get(4) == Some(&"chunked") { Framing::Chunked } else { Framing::Length };
            let first = format!("HTTP/1.1 200 OK\r\n{}\r\n", framing.field(bytes));
            reader.get_mut().write_all(first.as_bytes())?;
            framing.send(reader.get_mut(), bytes, &never)?;
        } else {
            let body = head.body.unwrap_or(Body::Length(0));
            body.take(&mut reader, arrived, rate, &never)?;
            reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
        }
    }
}

impl Framing {
    fn field(self, bytes: u64) -> String {
        match self {
            Self::Length => format!("content-length: {bytes}\r\n"),
            Self::Chunked => "transfer-encoding: chunked\r\n".into(),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Chunked => "chunked",
        }
    }

    fn send(self, stream: &mut TcpStream, bytes: u64, stop: &AtomicBool) -> io::Result<()> {
        let block = match self {
            Self::Length => vec![b'\n'; BLOCK],
            Self::Chunked => {
                [format!("{BLOCK:x}\r\n").as_bytes(), &[b'\n'; BLOCK], b"\r\n"].concat()
            }
        };
        for _ in 0..bytes / BLOCK as u64 {
            going(stop)?;
            stream.write_all(&block)?;
        }
        if self == Self::Chunked { stream.write_all(b"0\r\n\r\n") } else { Ok(()) }
    }
}

/// An error once it is to stop.
fn going(stop: &AtomicBool) -> io::Result<()> {
    if stop.load(Ordering::Relaxed) { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
}

/// What a head says.
struct Head {
    first: String,
    body: Option<Body>,
}

impl Head {
    fn read(reader: &mut BufReader<TcpStream>) -> io::Result<Self> {
        let mut head = Self { first: line(reader)?, body: None };
        loop {
            let field = line(reader)?.to_ascii_lowercase();
            if field.is_empty() {
                return Ok(head);
            }
            if let Some(length) = field.strip_prefix("content-length:") {
                head.body = length.trim().parse().ok().map(Body::Length);
            } else if field.starts_with("transfer-encoding:") && field.ends_with("chunked") {
                head.body = Some(Body::Chunked);
            }
        }
    }
}

fn line(reader: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

/// A body that is to be taken.
#[derive(Clone, Copy)]
enum Body {
    Length(u64),
    Chunked,
}

impl Body {
    fn take(
        self,
        reader: &mut BufReader<TcpStream>,
        arrived: &Arrived,
        rate: Option<u64>,
        stop: &AtomicBool,
    ) -> io::Result<()> {
        let (began, mut taken) = (Instant::now(), 0);
        let mut take = |reader: &mut BufReader<TcpStream>, mut left: u64| {
            while left > 0 {
                going(stop)?;
                let all = reader.fill_buf()?.len();
                if all == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                let most = if rate.is_some() { SIP } else { all };
                let bytes = all.min(most).min(usize::try_from(left).unwrap_or(usize::MAX));
                reader.consume(bytes);
                left -= bytes as u64;
                taken += bytes as u64;
                arrived.fetch_add(bytes as u64, Ordering::Relaxed);
                if let Some(rate) = rate {
                    let due = Duration::from_secs_f64(taken as f64 / rate as f64);
                    std::thread::sleep(due.saturating_sub(began.elapsed()));
                }
            }
            Ok(())
        };
        let Self::Length(length) = self else {
            loop {
                let size = line(reader)?;
                let size = u64::from_str_radix(&size, 16)
                    .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, size))?;
                take(reader, size)?;
                line(reader)?;
                if size == 0 {
                    return Ok(());
                }
            }
        };
        take(reader, length)
    }
}

/// Clients under way.
#[derive(Debug)]
pub struct Clients {
    stop: Arc<AtomicBool>,
    arrived: Arrived,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Starts them against a gateway on this port of loopback, with this server behind it.
    #[must_use]
    pub fn start(gateway: u16, server: &Server, load: Load) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let arrived = match load.way {
            Way::Up => Arc::clone(&server.arrived),
            Way::Down => Arrived::default(),
        };
        let threads = (0..load.clients)
            .map(|_| {
                let (stop, arrived) = (Arc::clone(&stop), Arc::clone(&arrived));
                std::thread::spawn(move || {
                    let done = client(gateway, load, &arrived, &stop);
                    let stopped = stop.load(Ordering::Relaxed);
                    assert!(stopped, "a client stopped by itself: {done:?}");
                })
            })
            .collect();
        Self { stop, arrived, threads }
    }

    /// Bytes of bodies that arrived, of these clients and, on the way up, all before them.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Ends them, in the middle of bodies.
    ///
    /// # Panics
    /// When a client got something else than it had asked for.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("it got what it asked for");
        }
    }
}

/// Sends one request after the other until it is stopped.
fn client(gateway: u16, load: Load, arrived: &Arrived, stop: &AtomicBool) -> io::Result<()> {
    let stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], gateway)))?;
    stream.set_nodelay(true)?;
    // A server that takes nothing would keep a client that is to stop.
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (bytes, framing) = (load.bytes, load.framing);
    let rate = load.rate.map_or(String::new(), |rate| format!("/{rate}"));
    let mut reader = BufReader::with_capacity(4 * BLOCK, stream);
    while !stop.load(Ordering::Relaxed) {
        let head = match load.way {
            Way::Down => format!("GET /down/{bytes}/{} HTTP/1.1\r\n", framing.word()),
            Way::Up => {
                let field = framing.field(bytes);
                format!("POST /up/{bytes}/{}{rate} HTTP/1.1\r\n{field}", framing.word())
            }
        };
        let head = format!("{head}host: bodies\r\n\r\n");
        reader.get_mut().write_all(head.as_bytes())?;
        if load.way == Way::Up {
            framing.send(reader.get_mut(), bytes, stop)?;
        }
        let head = Head::read(&mut reader)?;
        if !head.first.starts_with("HTTP/1.1 200") {
            return Err(io::Error::other(head.first));
        }
        let rate = load.rate.filter(|_| load.way == Way::Down);
        let nobody = Arrived::default();
        let arrived = if load.way == Way::Down { arrived } else { &nobody };
        head.body.unwrap_or(Body::Length(0)).take(&mut reader, arrived, rate, stop)?;
    }
    Ok(())
}
