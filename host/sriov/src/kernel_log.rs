//! What the kernel logs about devices while something is asked of them: drivers give their reasons
//! there, and only a number as the answer.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;

use crate::address::PciAddress;

/// `O_NONBLOCK`, as on all of Linux's architectures that Weir runs on.
const NONBLOCK: i32 = 0o4000;
/// Lines of a reason at most.
const LINES: usize = 3;

/// From where on the log is looked at. None: this user may not read it.
pub(crate) struct Mark(Option<File>);

impl Mark {
    /// From now on.
    pub(crate) fn now() -> Self {
        let log = File::options().read(true).custom_flags(NONBLOCK).open("/dev/kmsg");
        Self(log.ok().and_then(|mut log| log.seek(SeekFrom::End(0)).ok().map(|_| log)))
    }

    /// An error, with what was logged since about one of these devices.
    pub(crate) fn explain(&mut self, error: &str, devices: &[PciAddress]) -> String {
        let said = self.about(devices);
        if said.is_empty() {
            return error.to_owned();
        }
        format!("{error}; the kernel's log says: {}", said.join(" / "))
    }

    fn about(&mut self, devices: &[PciAddress]) -> Vec<String> {
        let Some(log) = &mut self.0 else { return Vec::new() };
        let names: Vec<String> = devices.iter().map(ToString::to_string).collect();
        let mut said = Vec::new();
        let mut record = [0; 8192];
        // A record for each call, behind "priority,number,time,flags;". It ends with an error when
        // there are no more.
        while let Ok(length) = log.read(&mut record) {
            let text = String::from_utf8_lossy(&record[..length]);
            let line = text.split_once(';').and_then(|(_, text)| text.lines().next());
            if let Some(line) =
                line.filter(|line| names.iter().any(|name| line.contains(name.as_str())))
            {
                said.push(line.to_owned());
            }
            if length == 0 || said.len() == LINES {
                break;
            }
        }
        said
    }
}
