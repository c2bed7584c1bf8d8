//! Events: what is kept, for whom, and from which number on.

use weir_control::{EventKind, Events};

/// Those that are kept of a tenant, or of the host itself.
const KEPT: usize = 1024;

#[test]
fn latecomers_get_what_was_kept() {
    let events = Events::default();
    for n in 0..KEPT + 10 {
        events.emit(EventKind::Note, None, "test", n.to_string());
    }
    let past = events.after(None, 0);
    assert_eq!((past.len(), past[0].id), (KEPT, 11));
    let last = KEPT as u64 + 10;
    assert!(events.after(None, last).is_empty());
    events.emit(EventKind::Note, None, "test", "new");
    assert_eq!(events.after(None, last)[0].message, "new");
    // Whoever knows more than there was saw it before a restart.
    assert_eq!(events.after(None, last + 2).len(), KEPT);
}

#[test]
fn nobody_loses_events_to_another_who_makes_many() {
    let events = Events::default();
    let (quiet, loud) = ("quiet".parse().unwrap(), "loud".parse().unwrap());
    events.emit(EventKind::Started, None, "host", "first");
    events.emit(EventKind::RolledBack, Some(&quiet), "f", "second");
    for _ in 0..2 * KEPT {
        events.emit(EventKind::SteeringApplied, Some(&loud), "loud", "again");
    }
    assert_eq!(events.after(Some(&quiet), 0)[0].message, "second");
    assert_eq!(events.after(Some(&loud), 0).len(), KEPT);
    let all = events.after(None, 0);
    assert_eq!((all.len(), all[0].id, all[1].id), (KEPT + 2, 1, 2));
    assert!(all.is_sorted_by_key(|event| event.id));
}
