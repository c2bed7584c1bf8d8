//! The file system that the guest's kernel begins with: one program, its script, and the modules
//! for the machine's files.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Modules that the script needs before the machine's files are there.
const MODULES: [&str; 3] = ["9pnet_virtio", "9p", "overlay"];

/// Makes it in this directory. `vm`: where `scripts/setup` unpacked the kernel.
pub(crate) fn build(vm: &Path, version: &str, directory: &Path) -> io::Result<PathBuf> {
    let tree = directory.join("initramfs");
    for place in ["bin", "modules", "proc", "root"] {
        fs::create_dir_all(tree.join(place))?;
    }
    let busybox = vm.join("bin/busybox");
    fs::copy(&busybox, tree.join("bin/busybox"))?;
    let mut init = File::create(tree.join("init"))?;
    init.write_all(include_bytes!("init.sh"))?;
    rustix::fs::fchmod(&init, rustix::fs::Mode::from_raw_mode(0o755))?;
    drop(init);
    for (number, module) in modules(vm, version)?.iter().enumerate() {
        let name = module.file_name().ok_or_else(|| io::Error::other("a module without name"))?;
        let name = format!("{number:02}-{}", name.to_string_lossy());
        let plain = File::create(tree.join("modules").join(name))?;
        let unpacked =
            Command::new(&busybox).args(["xz", "-dc"]).arg(module).stdout(plain).status()?;
        if !unpacked.success() {
            return Err(io::Error::other(format!("{} is not compressed", module.display())));
        }
    }
    let archive = directory.join("initramfs.cpio");
    let mut cpio = Command::new("cpio")
        .args(["--create", "--format=newc", "--quiet", "--directory"])
        .arg(&tree)
        .stdin(Stdio::piped())
        .stdout(File::create(&archive)?)
        .spawn()?;
    let mut names = cpio.stdin.take().ok_or_else(|| io::Error::other("cpio takes no names"))?;
    for name in names_below(&tree, Path::new(""))? {
        writeln!(names, "{}", name.display())?;
    }
    drop(names);
    if !cpio.wait()?.success() {
        return Err(io::Error::other("cpio failed"));
    }
    Ok(archive)
}

/// The modules and what they need, in the order in which they can be loaded.
fn modules(vm: &Path, version: &str) -> io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for module in MODULES {
        let output = Command::new("/sbin/modprobe")
            .arg("--dirname")
            .arg(vm)
            .args(["--set-version", version, "--show-depends", module])
            .output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!("module {module}: {said}")));
        }
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let path = line.strip_prefix("insmod ").map(|path| PathBuf::from(path.trim()));
            all.extend(path.filter(|path| !all.contains(path)));
        }
    }
    Ok(all)
}

fn names_below(tree: &Path, place: &Path) -> io::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(tree.join(place))? {
        let entry = entry?;
        let name = place.join(entry.file_name());
        names.push(name.clone());
        if entry.file_type()?.is_dir() {
            names.extend(names_below(tree, &name)?);
        }
    }
    Ok(names)
}
