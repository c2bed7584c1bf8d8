//! The members of an upstream: the address that it is, or all addresses that its name has. Shared
//! by all threads.
//!
//! Names are looked up by the system's resolver, as all other programs of the machine do it
//! (`/etc/hosts`, `resolv.conf`), on threads that nobody's request waits for. What cannot be looked
//! up keeps the addresses it had.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::config::Target;
use crate::upstream::health::Standing;
use crate::upstream::news::Teller;
use crate::upstream::room::Room;

/// How soon a name that could not be looked up is tried again, at the latest.
const AGAIN: Duration = Duration::from_secs(5);

/// An address of an upstream.
pub(crate) struct Member {
    pub(crate) address: SocketAddr,
    pub(crate) standing: Arc<Standing>,
    pub(crate) room: Arc<Room>,
}

impl Member {
    fn new(address: SocketAddr, teller: &Teller) -> Arc<Self> {
        let teller = Arc::clone(teller);
        let standing = Standing::new(Box::new(move |up, what: &str| teller(address, up, what)));
        Arc::new(Self { address, standing: Arc::new(standing), room: Arc::default() })
    }
}

/// Members in the order of their addresses.
pub(crate) type List = Vec<Arc<Member>>;

/// See the module.
pub(crate) struct Members {
    pub(crate) target: Target,
    list: watch::Sender<List>,
    failures: AtomicU64,
    problem: Mutex<Option<String>>,
    teller: Teller,
}

impl Members {
    /// An address is its own only member; a name has none until it was looked up.
    pub(crate) fn new(target: &Target, teller: Teller) -> Arc<Self> {
        let list = match target {
            Target::Address(address) => vec![Member::new(*address, &teller)],
            Target::Name { .. } => Vec::new(),
        };
        let (failures, problem) = (AtomicU64::new(0), Mutex::new(None));
        let (target, list) = (target.clone(), watch::Sender::new(list));
        Arc::new(Self { target, list, failures, problem, teller })
    }

    /// Whether it has to be looked up, and has never been.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self.target, Target::Name { .. }) && self.list.borrow().is_empty()
    }

    /// Whether one of them may have requests.
    pub(crate) fn healthy(&self) -> bool {
        self.list.borrow().iter().any(|member| member.standing.healthy())
    }

    /// Who they are, now and whenever that changes.
    pub(crate) fn watch(&self) -> watch::Receiver<List> {
        self.list.subscribe()
    }

    /// Addresses that a name has, with their health; none for an address.
    pub(crate) fn named(&self) -> Vec<(SocketAddr, bool)> {
        match self.target {
            Target::Address(_) => Vec::new(),
            Target::Name { .. } => {
                let list = self.list.borrow();
                list.iter().map(|member| (member.address, member.standing.healthy())).collect()
            }
        }
    }

    /// Times that the name could not be looked up.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    /// Why it could not the last time, or else why one of them may have no requests.
    pub(crate) fn what_is_wrong(&self) -> Option<String> {
        if let Some(problem) = &*self.problem() {
            return Some(problem.clone());
        }
        let list = self.list.borrow();
        list.iter().find_map(|member| {
            let problem = member.standing.problem()?;
            Some(match self.target {
                Target::Address(_) => problem,
                Target::Name { .. } => format!("{}: {problem}", member.address),
            })
        })
    }

    fn problem(&self) -> MutexGuard<'_, Option<String>> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks the name up again and again, this often.
    pub(crate) async fn keep_up(self: Arc<Self>, period: Duration) {
        loop {
            let found = self.look_up().await;
            tokio::time::sleep(if found { period } else { period.min(AGAIN) }).await;
        }
    }

    /// Looks the name up: whether it has addresses.
    pub(crate) async fn look_up(&self) -> bool {
        let Target::Name { host, port } = &self.target else { return true };
        let found = tokio::net::lookup_host((&**host, *port)).await;
        match found.map(Iterator::collect::<Vec<_>>) {
            Ok(addresses) if !addresses.is_empty() => {
                self.found(addresses);
                true
            }
            Ok(_) => self.not_found("it has no address".to_owned()),
            Err(error) => self.not_found(error.to_string()),
        }
    }

    fn found(&self, mut addresses: Vec<SocketAddr>) {
        addresses.sort_unstable();
        addresses.dedup();
        if self.problem().take().is_some() {
            tracing::info!(upstream = %self.target, "looked up again");
        }
        self.list.send_if_modified(|list| {
            if list.iter().map(|member| member.address).eq(addresses.iter().copied()) {
                return false;
            }
            tracing::info!(upstream = %self.target, ?addresses, "looked up: its addresses are others");
            // Who stays is as healthy as before.
            let member = |address| {
                let same = |member: &&Arc<Member>| member.address == address;
                list.iter().find(same).cloned().unwrap_or_else(|| Member::new(address, &self.teller))
            };
            *list = addresses.iter().copied().map(member).collect();
            true
        });
    }

    fn not_found(&self, why: String) -> bool {
        self.failures.fetch_add(1, Relaxed);
        let why = format!("{} cannot be looked up: {why}", self.target);
        let mut problem = self.problem();
        if problem.is_none() {
            let kept = self.list.borrow().len();
            tracing::warn!("{why}; {kept} addresses are kept from before");
        }
        *problem = Some(why);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(members: &Members) -> Vec<String> {
        members.named().iter().map(|(address, _)| address.ip().to_string()).collect()
    }

    #[test]
    fn what_is_found_replaces_what_was_and_who_stays_is_as_healthy_as_before() {
        let members = Members::new(
            &Target::Name { host: "a.example".into(), port: 1 },
            Arc::new(|_, _, _: &str| ()),
        );
        assert!(members.is_unknown() && !members.healthy());
        let of = |text: &str| -> Vec<SocketAddr> {
            text.split(' ').map(|ip| format!("{ip}:1").parse().unwrap()).collect()
        };
        members.found(of("10.0.0.2 10.0.0.1 10.0.0.2"));
        assert_eq!(addresses(&members), ["10.0.0.1", "10.0.0.2"]);
        let watch = members.watch();
        watch.borrow()[1].standing.ill(3, "status 500");
        members.found(of("10.0.0.1 10.0.0.2"));
        assert!(!watch.has_changed().unwrap(), "the same");
        members.found(of("10.0.0.2 10.0.0.3"));
        assert!(watch.has_changed().unwrap());
        assert_eq!(members.named().iter().map(|m| m.1).collect::<Vec<_>>(), [false, true]);
        assert_eq!(members.what_is_wrong().as_deref(), Some("10.0.0.2:1: check: status 500"));
        members.not_found("no answer".to_owned());
        assert_eq!(addresses(&members), ["10.0.0.2", "10.0.0.3"]);
        assert_eq!(members.failures(), 1);
        assert!(members.problem().as_ref().is_some_and(|why| why.contains("a.example:1")));
        members.found(of("10.0.0.2 10.0.0.3"));
        assert!(members.problem().is_none());
    }
}
