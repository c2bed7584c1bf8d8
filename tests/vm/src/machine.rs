//! What a guest has, and QEMU's command line for it.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::agent::PORT;
use crate::guest::{Child, Guest};
use crate::{Error, initramfs};

/// Guests that are booted until one comes up.
const ATTEMPTS: u32 = 3;
/// The least time that each of them has.
const BOOT: Duration = Duration::from_secs(60);

/// What a NIC's outer side is plugged into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plug {
    /// A TAP interface of the machine, made for the guest and set up: real programs reach the NIC's
    /// functions through it.
    Tap {
        /// Its name.
        interface: String,
        /// The network namespace that it lies in, as `ip netns` names it; the caller's own if none.
        namespace: Option<String>,
    },
    /// One of QEMU's backends, as its option `-netdev` has it, without `id`: `dgram,local.type=…`,
    /// `hubport,hubid=0`.
    Netdev(String),
}

impl std::str::FromStr for Plug {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(tap) = text.strip_prefix("tap:") else { return Ok(Self::Netdev(text.to_owned())) };
        let (namespace, interface) = match tap.split_once('/') {
            Some((namespace, interface)) => (Some(namespace.to_owned()), interface),
            None => (None, tap),
        };
        if interface.is_empty() || interface.len() > 15 || interface.contains(['/', ',']) {
            return Err(format!("{interface:?} is no name of an interface"));
        }
        Ok(Self::Tap { interface: interface.to_owned(), namespace })
    }
}

/// A guest to be.
#[derive(Clone, Debug)]
pub struct Machine {
    /// NICs: the n-th is PCI device `0000:0n:00.0` (from 1) with 7 virtual functions,
    /// `0000:0n:10.0`, `.2`, `.4`, `.6`, `11.0` …
    pub nics: Vec<Plug>,
    /// Memory in MiB.
    pub memory: u32,
    /// Cores.
    pub cores: u32,
    /// Huge pages of 2 MiB, out of the memory.
    pub huge_pages: u32,
    /// Whether there is an IOMMU.
    pub iommu: bool,
    /// Directories of the machine that the guest may write to, at the same place. All else that it
    /// writes is gone with it.
    pub shares: Vec<PathBuf>,
    /// Longest life of the guest.
    pub limit: Duration,
    /// The agent: this crate's program.
    pub agent: PathBuf,
    /// Where `scripts/setup` put the guest's kernel.
    pub vm: PathBuf,
}

impl Machine {
    /// A guest with one NIC that is plugged in nowhere. `target`: the directory in which things are
    /// built, where the guest's kernel and the agent are.
    #[must_use]
    pub fn new(target: &Path) -> Self {
        Self {
            nics: vec![Plug::Netdev("hubport,hubid=0".to_owned())],
            memory: 1536,
            cores: 2,
            huge_pages: 0,
            iommu: true,
            shares: Vec::new(),
            limit: Duration::from_secs(120),
            agent: target.join("release/weir-vm"),
            vm: target.join("vm"),
        }
    }

    /// Boots it, and waits until it takes commands. A guest that is not up in a third of its life,
    /// or a minute, is ended, and another one booted: now and then an emulated CPU sleeps on when
    /// its timer is due, and nothing goes on.
    ///
    /// # Errors
    /// When the machine lacks something, or no guest comes up.
    pub fn boot(&self) -> Result<Guest, Error> {
        let until = Instant::now() + self.limit;
        let mut attempts = 1;
        loop {
            match self.boot_once(until) {
                Err(Error::TooLong { console, .. })
                    if attempts < ATTEMPTS && Instant::now() < until =>
                {
                    eprintln!("the guest did not come up, another one is booted:\n{console}");
                    attempts += 1;
                }
                ended => return ended,
            }
        }
    }

    fn boot_once(&self, until: Instant) -> Result<Guest, Error> {
        let up_by = until.min(Instant::now() + BOOT.max(self.limit / ATTEMPTS));
        let vm = self.vm.canonicalize();
        let vm = vm.map_err(Error::setup(&format!("{} (run scripts/setup)", self.vm.display())))?;
        let agent = self.agent.canonicalize();
        let agent = agent.map_err(Error::setup(&self.agent.display().to_string()))?;
        let version = fs::read_to_string(vm.join("version"))
            .map_err(Error::setup(&format!("{} (run scripts/setup)", vm.display())))?;
        let directory = tempfile::tempdir().map_err(Error::setup("a directory"))?;
        let initramfs = initramfs::build(&vm, version.trim(), directory.path())
            .map_err(Error::setup("what the guest's kernel begins with"))?;
        let socket = directory.path().join("agent");
        let listener = UnixListener::bind(&socket).map_err(Error::setup("a socket"))?;

        let mut qemu = self.command();
        qemu.args(["-chardev", &format!("socket,id=agent,path={}", socket.display())]);
        qemu.arg("-serial").arg(format!("file:{}", console(&directory).display()));
        qemu.arg("-kernel").arg(vm.join(format!("boot/vmlinuz-{}", version.trim())));
        qemu.arg("-initrd").arg(initramfs).arg("-append").arg(self.kernel_line(&vm, &agent)?);
        let said = fs::File::create(directory.path().join("qemu"));
        let said = said.map_err(Error::setup("a file"))?;
        qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        let child = qemu.spawn().map_err(Error::setup("setpriv or ip"))?;
        let guest = Guest::attach(Child(child), listener, directory, self.limit, until)?;
        guest.wait_until_ready(up_by)?;
        self.plug_in()?;
        Ok(guest)
    }

    /// QEMU with the machine's devices. It ends when the thread that started it does.
    fn command(&self) -> Command {
        let mut qemu = match self.first_namespace() {
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace, "setpriv"]);
                command
            }
            None => Command::new("setpriv"),
        };
        qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        // KVM would be faster, but is not everywhere, and where it is nested not always sound.
        qemu.args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"]);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        qemu.args(["-m", &format!("{}M", self.memory), "-smp", &self.cores.to_string()]);
        if self.iommu {
            qemu.args(["-device", "intel-iommu,intremap=on,caching-mode=on"]);
        }
        qemu.args(["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]);
        qemu.args(["-device", &format!("virtserialport,chardev=agent,name={PORT}")]);
        let files = "security_model=none,multidevs=remap";
        qemu.args(["-virtfs", &format!("local,path=/,mount_tag=machine,readonly=on,{files}")]);
        for (n, share) in self.shares.iter().enumerate() {
            let path = share.display().to_string().replace(',', ",,");
            qemu.args(["-virtfs", &format!("local,path={path},mount_tag=share{n},{files}")]);
        }
        for (n, plug) in self.nics.iter().enumerate() {
            let backend = match plug {
                Plug::Tap { interface, .. } => {
                    format!("tap,ifname={interface},script=no,downscript=no")
                }
                Plug::Netdev(text) => text.clone(),
            };
            // Slots of the root bus from 16 on, behind the devices above.
            let slot = format!("addr={:#x},chassis={n},slot={n}", 16 + n);
            qemu.args(["-netdev", &format!("{backend},id=net{n}")]);
            qemu.args(["-device", &format!("pcie-root-port,id=root{n},{slot}")]);
            let mac = format!("52:54:00:77:00:{:02x}", n + 1);
            qemu.args(["-device", &format!("igb,bus=root{n},netdev=net{n},mac={mac}")]);
        }
        qemu
    }

    fn kernel_line(&self, vm: &Path, agent: &Path) -> Result<String, Error> {
        let mut shares = Vec::new();
        for share in &self.shares {
            let place = share.canonicalize().map_err(Error::setup(&share.display().to_string()))?;
            shares.push(place.display().to_string());
        }
        // A kernel that is in trouble ends the guest at once, which is a crash, and not what the
        // trouble leads to.
        let mut line = "console=ttyS0 quiet panic=-1 oops=panic".to_owned();
        // On a busy machine the emulated timer is too late for the kernel's look at whether it
        // ticks at all.
        line += " no_timer_check";
        if self.iommu {
            line += " intel_iommu=on iommu=pt";
        }
        line += &format!(" hugepages={}", self.huge_pages);
        line += &format!(" WEIR_VM={} WEIR_AGENT={}", vm.display(), agent.display());
        line += &format!(" WEIR_SHARES={}", shares.join(":"));
        let place = [vm, agent].into_iter().chain(self.shares.iter().map(PathBuf::as_path));
        match place.into_iter().find(|p| p.to_string_lossy().contains([' ', ':', '"'])) {
            Some(bad) => {
                let bad = bad.display();
                Err(Error::Setup(format!("{bad}: no blanks, colons or quotes in names, please")))
            }
            None => Ok(line),
        }
    }

    fn taps(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.nics.iter().filter_map(|plug| match plug {
            Plug::Tap { interface, namespace } => Some((&**interface, namespace.as_deref())),
            Plug::Netdev(_) => None,
        })
    }

    /// Where QEMU makes all TAP interfaces.
    fn first_namespace(&self) -> Option<&str> {
        self.taps().next()?.1
    }

    /// Puts the TAP interfaces where they belong, and sets them up.
    fn plug_in(&self) -> Result<(), Error> {
        let ip = |namespace: Option<&str>, words: &[&str]| {
            let mut command = Command::new("ip");
            command.args(namespace.iter().flat_map(|name| ["-n", name])).args(words);
            let output = command.output().map_err(Error::setup("ip"))?;
            let said = String::from_utf8_lossy(&output.stderr);
            let failed = || Error::Setup(format!("ip {}: {}", words.join(" "), said.trim()));
            output.status.success().then_some(()).ok_or_else(failed)
        };
        let first = self.first_namespace();
        for (interface, namespace) in self.taps() {
            if namespace != first {
                // Without a name it is the machine's first process's: the caller's own.
                let own = std::process::id().to_string();
                let to = namespace.unwrap_or(&own);
                ip(first, &["link", "set", "dev", interface, "netns", to])?;
            }
            ip(namespace, &["link", "set", "dev", interface, "up"])?;
        }
        Ok(())
    }
}

/// Where the guest's kernel writes to.
pub(crate) fn console(directory: &TempDir) -> PathBuf {
    directory.path().join("console")
}
