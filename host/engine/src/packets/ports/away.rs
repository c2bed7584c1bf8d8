//! Ports that could not be opened, because something outside the configuration is not as they need
//! it: an interface that is not there yet or is down, a PCI device that nobody has bound, a capture
//! that is missing.
//!
//! Such a port is down, and nothing else is. It is tried again until it can be opened; then whoever
//! deploys chains is told. Nobody waits for that but who wants the port.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Error, Result, anyhow};
use weir_control::engine::{EngineError, EngineEvent};
use weir_packet_plane::PlaneError;
use weir_port::PortError;
use weir_spec::{Chain, Name, PortKind, counted};

use super::super::refused;
use super::open::{Opened, interface, is_on_vf, look, problem};
use super::{Ports, Slot, links};

/// How often it is looked whether a port's device is there.
pub(super) const PAUSE: Duration = Duration::from_secs(1);
/// To open what is there, and to give it to a chain, is more than a look: where that fails, the
/// pause doubles up to this one.
const LONGEST_PAUSE: Duration = Duration::from_secs(64);

/// Why a port is down that could not be opened, and when it is tried again.
pub(super) struct Away {
    problem: String,
    next: Instant,
    /// It is being opened by whoever tries it again, and by nobody else meanwhile.
    is_tried: bool,
}

impl Slot {
    /// Why it could not be opened; none: it could.
    pub(in super::super) fn away(&self) -> Option<&str> {
        self.away.as_ref().map(|away| away.problem.as_str())
    }

    /// Whether it is tried again by itself.
    fn waits(&self) -> bool {
        self.away.is_some() && !self.is_set_up
    }

    fn is_tried(&self) -> bool {
        self.away.as_ref().is_some_and(|away| away.is_tried)
    }

    /// What is told of it while it is down.
    fn told_down(&self, problem: &str) -> String {
        let name = &self.config.name;
        if self.is_set_up {
            return format!("port {name} is down: {problem}");
        }
        format!("port {name} is down: {problem}; it is opened as soon as it can be")
    }

    fn down_event(&self, problem: &str) -> EngineEvent {
        EngineEvent::PortDown {
            tenant: self.config.tenant.clone(),
            port: self.config.name.clone(),
            message: self.told_down(problem),
        }
    }
}

impl Ports {
    /// Opens a port that no chain has, for so many lanes.
    ///
    /// # Errors
    /// Why it cannot be opened: it is down then, unless it could be opened for fewer.
    pub(super) fn reopen(&mut self, place: usize, lanes: usize) -> Result<(), EngineError> {
        let slot = &mut self.slots[place];
        let port = slot.config.name.clone();
        if let Some(away) = slot.away.as_ref().filter(|away| away.is_tried) {
            let message = slot.told_down(&away.problem);
            return Err(EngineError::NoPort { port, message });
        }
        let Err(error) = slot.reopen(self.room_bytes, lanes) else {
            self.is_back(place);
            return Ok(());
        };
        // The way to the kernel may have fewer queues than the device: the port is not to be down
        // for other chains.
        let fewer = slot.first_lanes();
        if slot.config.kernel.is_none()
            || lanes <= fewer
            || slot.reopen(self.room_bytes, fewer).is_err()
        {
            return Err(self.note_away(place, &error));
        }
        self.is_back(place);
        let problem = problem(&error);
        Err(EngineError::Refused(format!(
            "port {port} can be opened for {}, but not for {lanes}: {problem}",
            counted(fewer, "worker")
        )))
    }

    /// A port was opened; whether it was down is told.
    fn is_back(&mut self, place: usize) {
        let slot = &mut self.slots[place];
        if slot.away.take().is_some() {
            slot.told = links::Told::default();
            let (tenant, port) = (slot.config.tenant.clone(), slot.config.name.clone());
            let message = format!("port {port} is no longer down: it could be opened");
            self.tell(EngineEvent::PortBack { tenant, port, message });
        }
    }

    /// The interface of a port that no chain has went away: what was opened of it is of no use, and
    /// it is opened on the next one of that name.
    pub(in super::super) fn lost_interface(&mut self, port: &Name) {
        let free = |slot: &Slot| slot.config.name == *port && slot.chain.is_none();
        let Some(place) = self.slots.iter().position(free) else { return };
        let config = &self.slots[place].config;
        let interface = interface(config).unwrap_or_default();
        let error = look(config, self.room_bytes).err();
        let error =
            error.unwrap_or_else(|| anyhow!("{interface} is another interface than before"));
        drop(self.note_away(place, &error));
    }

    /// A port could not be opened, or still cannot be, for this reason; the answer is for the chain
    /// that is to have it.
    pub(super) fn note_away(&mut self, place: usize, error: &Error) -> EngineError {
        let problem = problem(error);
        let slot = &mut self.slots[place];
        // Half of it may be open.
        slot.ports.clear();
        slot.taps.clear();
        let (port, message) = (slot.config.name.clone(), slot.told_down(&problem));
        let (is_new, is_other) = (slot.away.is_none(), slot.away() != Some(&problem));
        if is_other {
            let event = slot.down_event(&problem);
            let next = Instant::now() + slot.pause;
            slot.away = Some(Away { problem, next, is_tried: false });
            self.tell(event);
        }
        if !self.slots[place].waits() {
            return EngineError::Refused(message);
        }
        if is_new {
            // Nobody hears it before there is whom to tell.
            let _ = self.wake.send(());
        }
        EngineError::NoPort { port, message }
    }

    /// A port that was opened did not take a chain's pool, and nobody has it. What became of its
    /// interface meanwhile may be over soon: it is opened once more as any port that is away, and
    /// the chain comes with it.
    pub(in super::super) fn not_attached(&mut self, error: PortError) -> EngineError {
        let (PortError::Configuration { port, .. } | PortError::Device { port, .. }) = &error
        else {
            return refused(PlaneError::Port(error));
        };
        let at = |slot: &Slot| slot.config.name.as_str() == port;
        let place = self.slots.iter().position(at).filter(|place| {
            // What is wrong with another device is not of its interface, and does not change by
            // itself.
            let config = &self.slots[*place].config;
            config.kind == PortKind::Xdp || look(config, self.room_bytes).is_err()
        });
        let Some(place) = place else { return refused(PlaneError::Port(error)) };
        let told = self.note_away(place, &error.into());
        self.slots[place].pause = longer(self.slots[place].pause);
        told
    }

    /// A chain has its ports.
    pub(in super::super) fn attached(&mut self, chain: &Chain) {
        for name in self.names(chain.from.as_ref(), chain.to.as_ref()) {
            if let Some(slot) = self.slot_mut(&name) {
                slot.pause = PAUSE;
                // Its own rules have taken the place of these.
                slot.kept.clear();
            }
        }
    }

    /// What there is to try again at this place by now: the port, bytes of a room, and lanes.
    fn due(&self, place: usize) -> Option<(weir_spec::Port, u32, usize, bool)> {
        let slot = &self.slots[place];
        let away = slot.away.as_ref().filter(|_| slot.waits() && !self.closed)?;
        let due = away.next <= Instant::now();
        due.then(|| (slot.config.clone(), self.room_bytes, slot.first_lanes(), slot.alone))
    }

    /// The port at this place is opened from now on; false: it is not to be any more.
    fn begin(&mut self, place: usize) -> bool {
        let away = self.slots[place].away.as_mut().filter(|_| !self.closed);
        away.map(|away| away.is_tried = true).is_some()
    }

    /// The port at this place was looked at, and opened if its device is there.
    fn end(&mut self, place: usize, is_there: bool, opened: Result<Opened>) {
        let slot = &mut self.slots[place];
        // Somebody may have had it opened while it was looked at.
        let Some(away) = &mut slot.away else { return };
        away.is_tried = false;
        match opened {
            // Nobody is to have it.
            Ok(opened) if self.closed => drop(opened),
            Ok(opened) => {
                slot.put(opened);
                self.is_back(place);
            }
            Err(error) => {
                drop(self.note_away(place, &error));
                let slot = &mut self.slots[place];
                slot.pause = if is_there { longer(slot.pause) } else { PAUSE };
                if let Some(away) = &mut slot.away {
                    away.next = Instant::now() + slot.pause;
                }
            }
        }
        self.tried.notify_all();
    }

    fn tell(&self, event: EngineEvent) {
        if let Some(sink) = self.sink.get() {
            sink(event);
        }
    }
}

/// The pause after this one.
fn longer(pause: Duration) -> Duration {
    (2 * pause).min(LONGEST_PAUSE)
}

/// The ports, as soon as none of these is being tried again, or after so long.
pub(in super::super) fn settled(
    ports: &Mutex<Ports>,
    patience: Duration,
    of: impl Fn(&Slot) -> bool,
) -> MutexGuard<'_, Ports> {
    let ports = ports.lock().unwrap_or_else(PoisonError::into_inner);
    let tried = Arc::clone(&ports.tried);
    let is_tried = |ports: &mut Ports| ports.slots.iter().any(|slot| slot.is_tried() && of(slot));
    let settled = tried.wait_timeout_while(ports, patience, is_tried);
    settled.unwrap_or_else(PoisonError::into_inner).0
}

/// Opens those that are away and can be opened by now; whether some still cannot. To look at a
/// device and to open it may take long: nobody is kept from other ports meanwhile.
fn try_again(ports: &Mutex<Ports>) -> bool {
    let all = || ports.lock().unwrap_or_else(PoisonError::into_inner);
    let count = all().slots.len();
    for place in 0..count {
        let due = all().due(place);
        let Some((config, room_bytes, lanes, alone)) = due else { continue };
        // A look changes nothing: whoever has the port opened meanwhile may.
        if let Err(error) = look(&config, room_bytes) {
            all().end(place, false, Err(error));
            continue;
        }
        if all().begin(place) {
            let mut opened = Opened::new(&config, room_bytes, lanes, alone);
            if let Ok(opened) = &mut opened
                && is_on_vf(&config)
            {
                opened.ports.clear();
            }
            all().end(place, true, opened);
        }
    }
    let all = all();
    !all.closed && all.slots.iter().any(Slot::waits)
}

/// Tells of ports that are away, and tries them again, as long as there are these ports: from a
/// thread that sleeps while there are none.
pub(in super::super) fn watch(ports: &Arc<Mutex<Ports>>) {
    let mut all = ports.lock().unwrap_or_else(PoisonError::into_inner);
    for slot in &all.slots {
        if let Some(problem) = slot.away() {
            all.tell(slot.down_event(problem));
        }
    }
    let Some(woken) = all.woken.take() else { return };
    drop(all);
    let ports = Arc::downgrade(ports);
    let watch = move || {
        while woken.recv().is_ok() {
            loop {
                std::thread::sleep(PAUSE);
                let Some(ports) = ports.upgrade() else { return };
                if !try_again(&ports) {
                    break;
                }
            }
        }
    };
    let started = std::thread::Builder::new().name("weir-ports".to_owned()).spawn(watch);
    if let Err(error) = started {
        tracing::warn!(
            "ports that are down stay so until a chain that has them is applied: {error}"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::OnceLock;
    use std::sync::mpsc::{Receiver, channel};
    use std::thread;

    use rustix::fs::{CWD, FileType, Mode, OFlags};
    use rustix::io::Errno;
    use weir_control::engine::EventSink;
    use weir_spec::{Document, HostConfig};

    use super::super::room_bytes;
    use super::*;

    /// The port `p`, which reads a capture that is missing, and what is told of it.
    fn missing(file: &Path) -> (Arc<Mutex<Ports>>, Receiver<EngineEvent>) {
        let file = file.display();
        let text = format!("[[port]]\nname = \"p\"\nkind = \"pcap\"\nfile = \"{file}\"\n");
        let config = Document::<HostConfig>::parse("weir.toml", &text).unwrap().value;
        let (tell, told) = channel();
        let tell: EventSink = Box::new(move |event| drop(tell.send(event)));
        let sink = Arc::new(OnceLock::from(tell));
        let ports = Ports::new(&config.ports, room_bytes(&config), |_| false, sink).unwrap();
        assert!(matches!(told.recv().unwrap(), EngineEvent::PortDown { .. }));
        (Arc::new(Mutex::new(ports)), told)
    }

    /// A capture without packets.
    fn write_capture(file: &Path) {
        let words = [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let new = file.with_extension("new");
        fs::write(&new, bytes).unwrap();
        fs::rename(new, file).unwrap();
    }

    fn is_back(told: &Receiver<EngineEvent>) -> bool {
        matches!(told.try_recv(), Ok(EngineEvent::PortBack { .. })) && told.try_recv().is_err()
    }

    fn open(ports: &Ports) -> Result<Opened> {
        Opened::new(&ports.slots[0].config, ports.room_bytes, 1, true)
    }

    #[test]
    fn nobody_waits_for_a_look_at_a_port_that_is_away() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("in.pcap");
        let (ports, told) = missing(&file);
        // Like a file system that hangs: what is read does not come.
        rustix::fs::mknodat(CWD, &file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        ports.lock().unwrap().slots[0].away.as_mut().unwrap().next = Instant::now();
        let tried = thread::spawn({
            let ports = Arc::clone(&ports);
            move || try_again(&ports)
        });
        let writer = loop {
            match rustix::fs::open(&file, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()) {
                Ok(writer) => break writer,
                // Nobody reads yet.
                Err(Errno::NXIO) => thread::sleep(Duration::from_millis(1)),
                Err(error) => panic!("{error}"),
            }
        };
        let mut all = ports.try_lock().expect("the ports are free");
        // What was found by the look does not count when the port was opened meanwhile.
        write_capture(&file);
        all.reopen(0, 1).unwrap();
        drop(all);
        assert!(is_back(&told));
        drop(writer);
        assert!(!tried.join().unwrap(), "none is away");
        let all = ports.lock().unwrap();
        assert!(all.slots[0].away().is_none() && all.slots[0].ports.len() == 1);
        assert!(told.try_recv().is_err());
    }

    #[test]
    fn a_port_that_is_being_opened_is_opened_by_nobody_else() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("in.pcap");
        let (ports, told) = missing(&file);
        write_capture(&file);
        let mut all = ports.lock().unwrap();
        assert!(all.begin(0));
        let refused = all.reopen(0, 1).unwrap_err();
        assert!(matches!(refused, EngineError::NoPort { .. }), "{refused:?}");
        // Whoever wants it waits, and nobody else does.
        drop(all);
        drop(settled(&ports, Duration::MAX, |slot| slot.config.name.as_str() == "other"));
        let waits = thread::spawn({
            let ports = Arc::clone(&ports);
            move || settled(&ports, Duration::from_secs(60), |_| true).slots[0].away().is_none()
        });
        let mut all = ports.lock().unwrap();
        let opened = open(&all);
        all.end(0, true, opened);
        drop(all);
        assert!(waits.join().unwrap() && is_back(&told));
        // The host stops while it is opened.
        let mut all = ports.lock().unwrap();
        drop(all.note_away(0, &anyhow!("it went away")));
        assert!(all.begin(0));
        let opened = open(&all);
        all.close();
        all.end(0, true, opened);
        assert!(all.slots[0].ports.is_empty() && !all.begin(0));
    }

    #[test]
    fn a_port_without_a_chain_whose_interface_went_is_opened_again_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("in.pcap");
        let (ports, told) = missing(&file);
        write_capture(&file);
        let name: Name = "p".parse().unwrap();
        let mut all = ports.lock().unwrap();
        all.reopen(0, 1).unwrap();
        assert!(is_back(&told));
        all.slots[0].chain = Some(name.clone());
        all.lost_interface(&name);
        assert!(all.slots[0].away().is_none());
        all.slots[0].chain = None;
        all.lost_interface(&name);
        assert!(all.slots[0].away().is_some() && all.slots[0].ports.is_empty());
        assert!(matches!(told.try_recv(), Ok(EngineEvent::PortDown { .. })));
        all.slots[0].away.as_mut().unwrap().next = Instant::now();
        drop(all);
        assert!(!try_again(&ports) && is_back(&told));
        assert_eq!(ports.lock().unwrap().slots[0].ports.len(), 1);
    }
}
