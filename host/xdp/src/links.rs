//! Tells what becomes of interfaces' links, whether or not a port's worker is awake.

use std::io;

use rustix::io::Errno;
use rustix::net::{self, RecvFlags};

use crate::interface::{self, Interface};

/// How the link of an interface is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Packets can leave and come.
    Up,
    /// It was set down, or has no carrier.
    Down,
    /// There is no interface of this name.
    Gone,
}

/// An interface as it was when last looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    /// None: it is not there.
    index: Option<u32>,
    link: Link,
}

impl Seen {
    fn of(name: &str) -> io::Result<Self> {
        Ok(match Interface::find(name)? {
            None => Self { index: None, link: Link::Gone },
            Some(found) => {
                let link = if found.is_live() { Link::Up } else { Link::Down };
                Self { index: Some(found.index), link }
            }
        })
    }

    /// What there is to tell after this. An interface of the same name is another one: that the one
    /// before went is told first.
    fn changes(self, now: Self) -> impl Iterator<Item = Link> {
        let went = self.index.is_some() && now.index.is_some() && self.index != now.index;
        let went = went.then_some(Link::Gone);
        let other = went.is_some() || self.link != now.link;
        went.into_iter().chain(other.then_some(now.link))
    }
}

/// Tells of interfaces, by their place among these, when their link changes or they come or go:
/// from a thread of its own, as long as the process lives.
///
/// # Errors
/// When the kernel tells nothing of links, or there is no thread.
pub fn watch(
    interfaces: Vec<String>,
    mut tell: impl FnMut(usize, Link) + Send + 'static,
) -> io::Result<()> {
    // From here on it is told what changes.
    let news = interface::news()?;
    let mut seen = interfaces.iter().map(|name| Seen::of(name)).collect::<io::Result<Vec<_>>>()?;
    let watch = move || {
        loop {
            match net::recv(&news, &mut [0u8; 1][..], RecvFlags::TRUNC) {
                // Of whom the news are, and what was lost of them, the kernel is asked.
                Ok(_) | Err(Errno::INTR | Errno::NOBUFS) => {}
                Err(error) => {
                    let error = io::Error::from(error);
                    tracing::warn!("nobody will tell when links go down: {error}");
                    return;
                }
            }
            for (place, (name, seen)) in interfaces.iter().zip(&mut seen).enumerate() {
                // An interface that the kernel does not tell of now is looked at with the next
                // news.
                let Ok(now) = Seen::of(name) else { continue };
                std::mem::replace(seen, now).changes(now).for_each(|link| tell(place, link));
            }
        }
    };
    std::thread::Builder::new().name("weir-links".to_owned()).spawn(watch)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_told_and_another_interface_of_the_name_is_one_that_went_and_one_that_came()
     {
        let seen = |index, link| Seen { index, link };
        let (up, down) = (seen(Some(1), Link::Up), seen(Some(1), Link::Down));
        let (gone, other) = (seen(None, Link::Gone), seen(Some(2), Link::Up));
        for (before, now, told) in [
            (up, up, &[][..]),
            (up, down, &[Link::Down]),
            (down, up, &[Link::Up]),
            (up, gone, &[Link::Gone]),
            (gone, gone, &[]),
            (gone, other, &[Link::Up]),
            (up, other, &[Link::Gone, Link::Up]),
            (down, other, &[Link::Gone, Link::Up]),
        ] {
            assert_eq!(before.changes(now).collect::<Vec<_>>(), told, "{before:?} {now:?}");
        }
        assert_eq!(Seen::of("lo").unwrap().index, Some(1));
        assert_eq!(Seen::of("weir-none").unwrap(), gone);
    }
}
