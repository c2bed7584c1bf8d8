//! Rules with the same two prefixes, told apart by protocol, ports and direction.
//!
//! Owns: the decision trees. Must not know: addresses. Algorithm: see the parent module.

/// Values of the fields, in the order protocol, source port (or ICMP type), destination port (or
/// ICMP code), direction.
pub(crate) type Fields = [u16; 4];

/// Largest value of every field.
const ALL: Fields = [u16::MAX; 4];
/// A leaf of at most this many entries is not cut further: scanning it costs as much as two cuts.
const LEAF: usize = 6;
/// A tree may hold this many times as many entries as it was given.
const COPIES: usize = 16;

/// One area of a rule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) low: Fields,
    pub(super) high: Fields,
    pub(super) rule: u32,
}

impl Entry {
    fn holds(&self, fields: Fields) -> bool {
        (0..4).all(|i| self.low[i] <= fields[i] && fields[i] <= self.high[i])
    }

    /// True when the entry holds every point of the box.
    fn covers(&self, low: Fields, high: Fields) -> bool {
        self.holds(low) && self.holds(high)
    }
}

/// Node of a tree: below `cut` go left, from there on go right.
#[derive(Clone, Copy)]
enum Node {
    Cut { field: u8, cut: u16, left: u32, right: u32 },
    Leaf { first: u32, end: u32 },
}

/// All trees.
#[derive(Default)]
pub(super) struct Groups {
    nodes: Vec<Node>,
    entries: Vec<Entry>,
}

impl Groups {
    /// Adds a group and returns its number.
    pub(super) fn add(&mut self, mut entries: Vec<Entry>) -> u32 {
        entries.sort_by_key(|entry| entry.rule);
        let budget = entries.len() * COPIES;
        self.build(entries, [0; 4], ALL, budget)
    }

    /// Builds the tree for the box and returns its root. `budget` is how many entries its leaves
    /// may hold together.
    fn build(&mut self, mut entries: Vec<Entry>, low: Fields, high: Fields, budget: usize) -> u32 {
        // What comes after a rule that matches all of the box can never win (HiCuts, section 3.2).
        if let Some(at) = entries.iter().position(|entry| entry.covers(low, high)) {
            entries.truncate(at + 1);
        }
        let cut = if entries.len() > LEAF { best_cut(&entries, low, high) } else { None };
        let Some(cut) = cut.filter(|cut| cut.left + cut.right <= budget) else {
            let first = index(self.entries.len());
            self.entries.extend(entries);
            return self.push(Node::Leaf { first, end: index(self.entries.len()) });
        };
        let Cut { field, at, left, right } = cut;
        let root = self.push(Node::Leaf { first: 0, end: 0 });
        let left_budget = budget * left / (left + right);
        let (mut left_high, mut right_low) = (high, low);
        left_high[field] = at - 1;
        right_low[field] = at;
        let below = entries.iter().copied().filter(|entry| entry.low[field] < at).collect();
        entries.retain(|entry| entry.high[field] >= at);
        let left = self.build(below, low, left_high, left_budget);
        let right = self.build(entries, right_low, high, budget - left_budget);
        // One of four fields.
        let field = field as u8;
        self.nodes[root as usize] = Node::Cut { field, cut: at, left, right };
        root
    }

    /// Entries in all leaves together.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.entries.len()
    }

    fn push(&mut self, node: Node) -> u32 {
        self.nodes.push(node);
        index(self.nodes.len() - 1)
    }

    /// The lowest rule of the group that matches, if it is lower than `below`; else `below`.
    pub(super) fn first_match(&self, group: u32, fields: Fields, below: u32) -> u32 {
        let mut at = group;
        loop {
            match self.nodes[at as usize] {
                Node::Cut { field, cut, left, right } => {
                    at = if fields[usize::from(field & 3)] < cut { left } else { right };
                }
                Node::Leaf { first, end } => {
                    return self.entries[first as usize..end as usize]
                        .iter()
                        .take_while(|entry| entry.rule < below)
                        .find(|entry| entry.holds(fields))
                        .map_or(below, |entry| entry.rule);
                }
            }
        }
    }
}

fn index(value: usize) -> u32 {
    u32::try_from(value).expect("the number of rules is limited far below 2^32 / COPIES")
}

struct Cut {
    field: usize,
    at: u16,
    left: usize,
    right: usize,
}

/// The cut, at the middle of one field's boundaries, that leaves the smallest larger half; `None`
/// when no cut makes both halves smaller.
fn best_cut(entries: &[Entry], low: Fields, high: Fields) -> Option<Cut> {
    (0..4)
        .filter_map(|field| {
            let mut bounds: Vec<u16> = entries
                .iter()
                .flat_map(|entry| [Some(entry.low[field]), entry.high[field].checked_add(1)])
                .flatten()
                .filter(|&bound| low[field] < bound && bound <= high[field])
                .collect();
            if bounds.is_empty() {
                return None;
            }
            let middle = bounds.len() / 2;
            let (_, &mut at, _) = bounds.select_nth_unstable(middle);
            let left = entries.iter().filter(|entry| entry.low[field] < at).count();
            let right = entries.iter().filter(|entry| entry.high[field] >= at).count();
            Some(Cut { field, at, left, right })
        })
        .filter(|cut| cut.left.max(cut.right) < entries.len())
        .min_by_key(|cut| (cut.left.max(cut.right), cut.left + cut.right))
}
