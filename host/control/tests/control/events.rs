//! Events: what is kept, for whom, and from which number on.

use weir_control::{EventKind, Events};

/// Those that are kept of a tenant, or of the host itself.
const KEPT: usize = 1024;

#[test]
fn latecomers_get_what_was_kept() {
    let events = Events::since(0);
    for n in 0..KEPT + 10 {
        events.emit(EventKind::Note, None, "test", n.to_string());
    }
    let past = events.after(None, 0);
    assert_eq!((past.len(), past[0].id), (KEPT, 11));
    let last = KEPT as u64 + 10;
    assert!(events.after(None, last).is_empty());
    events.emit(EventKind::Note, None, "test", "new");
    assert_eq!(events.after(None, last)[0].message, "new");
    // Whoever knows more than there was saw it when the clock was ahead.
    assert_eq!(events.after(None, last + 2).len(), KEPT);
}

#[test]
fn who_missed_some_is_told_so() {
    let events = Events::since(1000);
    let (loud, quiet) = ("loud".parse().unwrap(), "quiet".parse().unwrap());
    events.emit(EventKind::Started, None, "host", "first");
    events.emit(EventKind::Pushed, Some(&quiet), "f", "second");
    for n in 0..KEPT + 5 {
        events.emit(EventKind::Pushed, Some(&loud), "f", n.to_string());
    }
    let lost = |tenant, after| {
        let events = events.after(tenant, after);
        let lost: Vec<_> = events.iter().filter(|event| event.kind == EventKind::Lost).collect();
        assert!(lost.len() < 2 && events.is_sorted_by_key(|event| event.id));
        lost.first().map(|event| event.id)
    };
    for tenant in [None, Some(&loud)] {
        assert_eq!(lost(tenant, 1003), Some(1007));
        assert_eq!(lost(tenant, 1007), None);
    }
    assert_eq!(lost(Some(&quiet), 1001), None);
    // Who begins asks for what there is; who has seen some of a start before is told what is
    // missing of this one.
    assert_eq!((lost(None, 0), lost(None, 999), lost(None, 7)), (None, Some(1007), Some(1007)));
    assert_eq!(lost(Some(&quiet), 7), None);
    let past = events.after(None, 7);
    assert_eq!(past[0].message, "first");
    let lost = past.iter().find(|event| event.kind == EventKind::Lost).unwrap();
    assert!(lost.message.contains("from number 1001 to 1007 "), "{}", lost.message);
}

#[test]
fn nobody_loses_events_to_another_who_makes_many() {
    let events = Events::since(0);
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
