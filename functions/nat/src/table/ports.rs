//! External ports: which are in use, and which a new mapping gets.
//!
//! Owns: choosing and counting. Must not know: flows.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::forwards::Settling;
use super::{Inside, Mapping, NoFlow, Outside, PROTOCOLS, Table};

/// Ports looked at in a burst after a change of the range, to count those in use; and as long as
/// they are not counted, those looked at for free ones. All at once is a page fault for each 512
/// that nobody has used, which may take longer than the deadline.
pub(super) const COUNT: u32 = 4096;

/// What is known of the ports of an external address for a protocol.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Used {
    /// How many of the range are in use.
    pub(super) ports: u32,
    random: u32,
    /// The range that these are counted of; zeros: nothing has been in use yet.
    range: [u16; 2],
    /// Ports from the range's begin on that were looked at to count them. It lies here, because a
    /// canary counts beside the running version, and a version that follows goes on.
    looked_at: u32,
}

/// The ports of an external address for a protocol: the places of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pool {
    pub(super) external: usize,
    pub(super) place: usize,
}

impl Pool {
    /// They are numbered as they lie in the mappings' array.
    pub(super) fn of_number(number: usize) -> Self {
        Self { external: number / PROTOCOLS.len(), place: number % PROTOCOLS.len() }
    }

    fn number(self) -> usize {
        self.external * PROTOCOLS.len() + self.place
    }
}

impl Table {
    /// A free port for a new mapping of an inside host: of the external address of its others
    /// (paired pooling, RFC 4787 REQ-2). One that has no others gets it of the address that its
    /// hash names, or the next that has one.
    pub(super) fn choose(
        &mut self,
        place: usize,
        inside: Inside,
        known: Option<u16>,
    ) -> Result<Outside, NoFlow> {
        let all = self.external.len();
        let host = self.hosts.find(&self.hasher, inside);
        if let Some(host) = host.filter(|host| usize::from(host.external) < all) {
            if host.ports[place] >= self.ports_per_host {
                return Err(NoFlow::Host);
            }
            let external = usize::from(host.external);
            return self.allocate(Pool { external, place }, inside, known);
        }
        let first = self.hasher.hash(&inside.address) as usize % all;
        let found = self.allocate(Pool { external: first, place }, inside, known);
        let Err(NoFlow::Ports(_)) = found else { return found };
        let mut others = (1..all).map(|n| Pool { external: (first + n) % all, place });
        others.find_map(|pool| self.allocate(pool, inside, None).ok()).map_or(found, Ok)
    }

    /// A free port: the inside one if it is free (port preservation), else the one that is known to
    /// be, else a random one (RFC 6056, algorithm 1).
    fn allocate(
        &mut self,
        pool: Pool,
        inside: Inside,
        known: Option<u16>,
    ) -> Result<Outside, NoFlow> {
        let Pool { external, place } = pool;
        let (first, range) = (self.ports.0, self.range());
        // A canary beside this version may have another range.
        self.set_range(pool);
        let counted = self.is_counted(pool);
        // For each packet it would be a long search, if the pool is full.
        let search = if counted { range } else { range.min(self.search) };
        let used = self.used_mut(pool);
        if used.ports >= range {
            return Err(NoFlow::Ports(pool));
        }
        used.random = used.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let random = used.random ^ (self.hasher.hash(&used_key(inside)) >> 32) as u32;
        let free =
            |table: &Self, port: u16| *table.mapping(external, place, port) == Mapping::default();
        let start = random % range;
        let mut looks = 0;
        let candidates = (0..search).map(|n| {
            looks += 1;
            first + ((start + n) % range) as u16
        });
        let preserved = Some(inside.port).filter(|port| self.may_be_given_out(*port));
        let mut all = preserved.into_iter().chain(known).chain(candidates);
        let found = all.find(|port| free(self, *port));
        if !counted {
            self.search -= looks;
        }
        let Some(port) = found else {
            if counted {
                self.used_mut(pool).ports = range;
            }
            return Err(NoFlow::Ports(pool));
        };
        // At most 255 external addresses.
        Ok(Outside { external: external as u16, port })
    }

    /// From now on ports in use are those of this configuration's range.
    pub(super) fn set_ranges(&mut self) {
        for number in 0..self.used.len() {
            self.set_range(Pool::of_number(number));
        }
    }

    /// From now on a pool's ports in use are those of this configuration's range. Where others were
    /// counted, they are counted anew.
    fn set_range(&mut self, pool: Pool) {
        let (range, all) = (self.ports.into(), self.range());
        let used = self.used_mut(pool);
        if used.range != range {
            used.looked_at = if used.range == [0; 2] { all } else { 0 };
            (used.ports, used.range) = (0, range);
            if matches!(self.settling, Settling::Done) {
                self.settling = Settling::Count;
            }
        }
    }

    /// Ports that may be given out.
    pub(super) fn range(&self) -> u32 {
        u32::from(self.ports.1 - self.ports.0) + 1
    }

    pub(super) fn may_be_given_out(&self, port: u16) -> bool {
        (self.ports.0..=self.ports.1).contains(&port)
    }

    /// A port is in use from now on, or not any more. Counted are those that may be given out;
    /// those that are still to be looked at are counted then.
    pub(super) fn count_port(&mut self, pool: Pool, port: u16, used: bool) {
        let looked_at = self.looked_at(pool).unwrap_or(0);
        if self.may_be_given_out(port) && u32::from(port - self.ports.0) < looked_at {
            let count = &mut self.used_mut(pool).ports;
            *count = if used { *count + 1 } else { count.saturating_sub(1) };
        }
    }

    /// Counts ports in use, so many as may be looked at in a burst.
    pub(super) fn count_ports(&mut self) {
        let (all, mut left) = (self.range(), COUNT);
        for number in 0..self.used.len() {
            let pool = Pool::of_number(number);
            let from = self.looked_at(pool).unwrap_or(all);
            if from >= all {
                continue;
            }
            let count = left.min(all - from);
            let ports = self.in_use(pool, from, count);
            let used = self.used_mut(pool);
            used.ports += ports;
            used.looked_at += count;
            left -= count;
            if left == 0 {
                self.settling = Settling::Count;
                return;
            }
        }
        self.settling = Settling::Done;
    }

    /// Whether the ports of a pool that are in use are counted.
    pub(super) fn is_counted(&self, pool: Pool) -> bool {
        self.looked_at(pool).is_some_and(|count| count >= self.range())
    }

    /// Ports of a pool that were looked at to count them; `None` if another version counts those of
    /// its range.
    fn looked_at(&self, pool: Pool) -> Option<u32> {
        let used = &self.used[pool.number()];
        (used.range == <[u16; 2]>::from(self.ports)).then_some(used.looked_at)
    }

    /// Ports of a part of the range that lead inside, or are closed for now.
    pub(super) fn in_use(&self, Pool { external, place }: Pool, from: u32, count: u32) -> u32 {
        let first = Self::index(external, place, self.ports.0) + from as usize;
        let used = self.mappings[first..first + count as usize]
            .iter()
            .filter(|mapping| **mapping != Mapping::default());
        used.fold(0, |count, _| count + 1)
    }

    fn used_mut(&mut self, pool: Pool) -> &mut Used {
        &mut self.used[pool.number()]
    }

    /// Ports that may still be looked at for a free one.
    #[cfg(test)]
    pub(crate) fn search_left(&self) -> u32 {
        self.search
    }
}

fn used_key(inside: Inside) -> u64 {
    u64::from(inside.address) << 16 | u64::from(inside.port)
}
