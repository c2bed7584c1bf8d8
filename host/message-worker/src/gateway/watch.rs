//! Whether a worker is alive: while something waits for its word, it is looked at a few times in
//! the period for which it may be silent. It lives if it has said anything, or read anything, since
//! the last look. Functions may keep their callers waiting for long, so a worker that has nothing
//! to say is asked whether it is there; its event loop answers that whatever functions wait for.

/// Looks in the period for which a worker may be silent.
pub(super) const LOOKS: u32 = 4;
/// Looks without a sign after which it is asked.
const ASK: u32 = 1;

/// What a look came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Looked {
    /// There was a sign, or nothing waits.
    Alive,
    /// None for a while: it is to be asked.
    Ask,
    /// None for the whole period, though it was asked.
    Silent,
}

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Watch {
    /// What it had said and read at the last look.
    signs: (u64, u64),
    quiet: u32,
}

impl Watch {
    /// A look. `signs`: what it has said and read so far.
    pub(super) fn look(&mut self, waiting: bool, signs: (u64, u64)) -> Looked {
        let moved = std::mem::replace(&mut self.signs, signs) != signs;
        if moved || !waiting {
            self.quiet = 0;
            return Looked::Alive;
        }
        self.quiet += 1;
        match self.quiet {
            ASK => Looked::Ask,
            quiet if quiet > LOOKS => Looked::Silent,
            _ => Looked::Alive,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_is_silent_is_asked_and_then_given_up_and_one_that_answers_is_not() {
        let mut watch = Watch::default();
        assert_eq!(watch.look(true, (1, 1)), Looked::Alive);
        assert_eq!(watch.look(true, (1, 1)), Looked::Ask);
        assert_eq!(watch.look(true, (2, 1)), Looked::Alive);
        let looks: Vec<_> = (0..5).map(|_| watch.look(true, (2, 1))).collect();
        assert_eq!(looks[0], Looked::Ask);
        assert_eq!(looks[1..4], [Looked::Alive; 3]);
        assert_eq!(looks[4], Looked::Silent);
    }

    #[test]
    fn a_worker_that_nothing_waits_for_may_be_silent() {
        let mut watch = Watch::default();
        assert!((0..20).all(|_| watch.look(false, (0, 0)) == Looked::Alive));
        assert_eq!(watch.look(true, (0, 0)), Looked::Ask);
    }
}
