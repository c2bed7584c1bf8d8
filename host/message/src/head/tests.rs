use http::{Request, Response};
use proptest::prelude::*;
use weir_exchange::Origin;
use weir_layout::message::{FLAG_MADE, Head, Part};

use super::check::{check_fields, head, used};
use super::*;

const ROOM: usize = 4096;

fn origin() -> Origin {
    Origin {
        client: ([192, 0, 2, 1], 1000).into(),
        local: ([192, 0, 2, 2], 80).into(),
        tls: false,
        server_name: Some("example.org".into()),
        upgrade: false,
    }
}

fn request(fields: &[(String, Vec<u8>)]) -> http::request::Parts {
    let mut request = Request::builder().method("PUT").uri("/a/b?c=%64").header("host", "h:81");
    for (name, value) in fields {
        request = request.header(name, value.as_slice());
    }
    request.header("te", "trailers").body(()).unwrap().into_parts().0
}

/// Whether all fields that lie there may.
fn check(room: &[u8]) -> Result<(), Broken> {
    let head = head(used(room)?)?;
    check_fields(&head, 0..head.entries())
}

/// What functions do to a head, one edit each.
fn edits() -> impl Strategy<Value = Vec<(u8, String, String)>> {
    prop::collection::vec((0u8..6, "[a-z][a-z0-9-]{0,4}", "[a-z]{0,9}"), 0..6)
}

fn edit(head: &mut Head<&mut [u8]>, (edit, name, value): &(u8, String, String)) {
    match edit {
        0..=2 => head.add(name.as_bytes(), value.as_bytes()).unwrap(),
        3 => head.set(name, value.as_bytes()).unwrap(),
        4 => head.set_part(Part::Path, format!("/{value}").as_bytes()).unwrap(),
        _ => {
            head.remove(name);
        }
    }
}

proptest! {
    #[test]
    fn what_is_followed_is_taken_as_it_lies_there(
        fields in prop::collection::vec(("[a-z][a-z0-9-]{0,4}", prop::collection::vec(0x21u8..0x7f, 0..9)), 0..12),
        edits in edits(),
        places in prop::collection::vec((0usize..400, any::<u16>()), 0..3),
    ) {
        let mut room = vec![0xaa; ROOM];
        lay_out_request(&mut room, &request(&fields), &origin(), Some(7)).unwrap();
        let mut known = Known::of(&room, Vec::new());
        for one in &edits {
            edit(&mut Head::new(&mut room[..]).unwrap(), one);
            known.follow(&room).unwrap();
            prop_assert_eq!(known.bytes(), used(&room).unwrap());
        }
        let mut parts = request(&fields);
        take_known_request(&known, &mut parts).unwrap();
        let mut other = request(&fields);
        take_request(&room, &mut other).unwrap();
        prop_assert_eq!((&parts.uri, &parts.headers), (&other.uri, &other.headers));

        // Whatever else lies there is known as soon as its fields are good, and what was known
        // before stays if they are not.
        let before = known.bytes().to_vec();
        for (at, value) in places {
            room[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        let followed = known.follow(&room).is_ok();
        prop_assert!(followed || check(&room).is_err());
        if followed {
            let mut parts = request(&fields);
            let mut other = request(&fields);
            let taken = take_known_request(&known, &mut parts).is_ok();
            prop_assert_eq!(taken, take_request(&room, &mut other).is_ok());
            prop_assert_eq!((&parts.uri, &parts.headers), (&other.uri, &other.headers));
        } else {
            prop_assert_eq!(known.bytes(), before);
            known.undo(&mut room);
            prop_assert!(check(&room).is_ok());
        }
    }

    #[test]
    fn a_request_comes_back_as_it_was_laid_out(
        fields in prop::collection::vec(("[a-z][a-z0-9-]{0,12}", prop::collection::vec(0x21u8..0x7f, 0..30)), 0..20),
    ) {
        let before = request(&fields);
        let mut room = vec![0; ROOM];
        lay_out_request(&mut room, &before, &origin(), Some(7)).unwrap();
        let mut after = request(&fields);
        take_request(&room, &mut after).unwrap();
        prop_assert_eq!(&before.uri, &after.uri);
        prop_assert_eq!(&before.method, &after.method);
        let mut all: Vec<_> = before.headers.iter().collect();
        let mut back: Vec<_> = after.headers.iter().collect();
        all.sort_by_key(|(name, _)| name.as_str());
        back.sort_by_key(|(name, _)| name.as_str());
        prop_assert_eq!(all, back);
    }

    #[test]
    fn what_is_added_changed_or_deleted_is_so_afterwards(
        fields in prop::collection::vec(("[a-z][a-z0-9-]{0,4}", prop::collection::vec(0x21u8..0x7f, 0..9)), 0..12),
        edits in prop::collection::vec((0u8..3, "[a-z][a-z0-9-]{0,4}", "[a-z]{0,9}"), 0..6),
    ) {
        let before = request(&fields);
        let mut room = vec![0; ROOM];
        lay_out_request(&mut room, &before, &origin(), Some(7)).unwrap();
        let mut head = Head::new(&mut room[..]).unwrap();
        for (edit, name, value) in &edits {
            match edit {
                0 => head.add(name.as_bytes(), value.as_bytes()).unwrap(),
                1 => head.set(name, value.as_bytes()).unwrap(),
                _ => { head.remove(name); }
            }
        }
        // As if all had been read anew.
        let anew = super::take::fields(&room, &before.headers).unwrap();
        let mut parts = request(&fields);
        take_request(&room, &mut parts).unwrap();
        prop_assert_eq!(&parts.headers, &anew);
    }

    #[test]
    fn whatever_lies_there_is_taken_whole_or_not_at_all(
        bytes in prop::collection::vec(any::<u8>(), 0..ROOM),
        places in prop::collection::vec((0usize..200, any::<u16>()), 0..20),
        laid in any::<bool>(),
    ) {
        let mut room = bytes;
        if laid {
            room.resize(ROOM, 0);
            lay_out_request(&mut room, &request(&[]), &origin(), None).unwrap();
        }
        for (at, value) in places {
            if let Some(place) = room.get_mut(at..at + 2) {
                place.copy_from_slice(&value.to_le_bytes());
            }
        }
        let before = request(&[]);
        let mut parts = request(&[]);
        let fields_are_good = check(&room).is_ok();
        let (mut answer, ()) = Response::new(()).into_parts();
        // A status apart, both say the same of fields.
        if let Some(mut head) = Head::new(&mut room[..]) {
            let status = head.status();
            head.set_status(200);
            let taken = take_response(&room, &mut answer).is_ok();
            prop_assert_eq!(taken, fields_are_good);
            Head::new(&mut room[..]).unwrap().set_status(status);
        }
        if take_request(&room, &mut parts).is_err() {
            prop_assert_eq!((&parts.uri, &parts.headers), (&before.uri, &before.headers));
        }
        // The gateway's own are as they were.
        prop_assert_eq!(&parts.headers["te"], "trailers");
        let (mut parts, ()) = Response::new(()).into_parts();
        if take_response(&room, &mut parts).is_ok() {
            prop_assert!((200..600).contains(&parts.status.as_u16()));
        }
        let _ = new_request(&room);
    }
}

#[test]
fn a_head_that_does_not_fit_is_refused() {
    let long = vec![("long".to_owned(), vec![b'x'; ROOM])];
    let mut room = vec![0; ROOM];
    assert_eq!(lay_out_request(&mut room, &request(&long), &origin(), None), Err(TooLarge));
}

#[test]
fn lines_cannot_be_smuggled_into_fields_or_targets() {
    let mut room = vec![0; ROOM];
    for edit in [
        (|head| head.add(b"x", b"a\r\nset-cookie: b")) as fn(&mut Head<&mut [u8]>) -> _,
        |head| head.add(b"x: y\r\nz", b"a"),
        |head| head.add(b"Upper", b"a"),
        |head| head.set_part(Part::Path, b"/a HTTP/1.1\r\nx: y"),
        |head| head.set_part(Part::Path, b"http://elsewhere/"),
        |head| head.set_part(Part::Method, b"GET /"),
        |head| head.set_part(Part::Authority, b"a b"),
    ] {
        lay_out_request(&mut room, &request(&[]), &origin(), None).unwrap();
        edit(&mut Head::new(&mut room[..]).unwrap()).unwrap();
        let line = Head::new(&room[..]).unwrap().entries() == 0;
        assert!(line || check(&room).is_err());
        let mut parts = request(&[]);
        assert!(take_request(&room, &mut parts).is_err());
        assert_eq!(parts.uri, "/a/b?c=%64");
    }
}

#[test]
fn a_changed_authority_moves_host_with_it() {
    let mut room = vec![0; ROOM];
    lay_out_request(&mut room, &request(&[]), &origin(), None).unwrap();
    Head::new(&mut room[..]).unwrap().set_part(Part::Authority, b"other:8080").unwrap();
    let mut parts = request(&[]);
    take_request(&room, &mut parts).unwrap();
    assert_eq!(parts.headers["host"], "other:8080");
}

#[test]
fn what_the_gateway_made_is_no_upstreams() {
    for made in [false, true] {
        let mut parts = Response::builder().status(502).body(()).unwrap().into_parts().0;
        if made {
            parts.extensions.insert(weir_exchange::MadeByGateway);
        }
        let mut room = vec![0; ROOM];
        lay_out_response(&mut room, &parts, &origin(), Some(12), false).unwrap();
        let head = Head::new(&mut room[..]).unwrap();
        assert_eq!(head.flags() & FLAG_MADE != 0, made);
        assert_eq!(head.upstream(), None);
    }
}

#[test]
fn who_sent_a_response_is_in_its_head() {
    let mut parts = Response::builder().body(()).unwrap().into_parts().0;
    parts.extensions.insert(weir_exchange::SentBy(2));
    for (made, upstream) in [(false, Some(2)), (true, None)] {
        let mut room = vec![0; ROOM];
        lay_out_response(&mut room, &parts, &origin(), None, made).unwrap();
        assert_eq!(Head::new(&room[..]).unwrap().upstream(), upstream);
    }
}

#[test]
fn what_a_function_leaves_alone_is_not_its_fault() {
    // A server's status, and a client's host, whatever they are.
    for status in [101, 600, 999] {
        let response = || Response::builder().status(status).body(()).unwrap().into_parts().0;
        let mut room = vec![0; ROOM];
        lay_out_response(&mut room, &response(), &origin(), None, false).unwrap();
        let before = used(&room).unwrap().to_vec();
        let mut known = Known::of(&room, Vec::new());
        Head::new(&mut room[..]).unwrap().add(b"x-a", b"b").unwrap();
        known.follow(&room).unwrap();
        let (mut one, mut other) = (response(), response());
        take_known_response(&known, &mut one).unwrap();
        take_response(&room, &mut other).unwrap();
        check_status_line(&room, &before).unwrap();
        for parts in [one, other] {
            assert_eq!(parts.status, status);
            assert_eq!(parts.headers["x-a"], "b");
        }
        Head::new(&mut room[..]).unwrap().set_status(status ^ 1);
        assert!(take_response(&room, &mut response()).is_err());
        assert!(check_status_line(&room, &before).is_err());
    }
    for host in ["a:b:c", "[", "::1", "a%62"] {
        let request = || {
            let mut request = request(&[]);
            request.headers.insert("host", host.parse().unwrap());
            request
        };
        let mut room = vec![0; ROOM];
        lay_out_request(&mut room, &request(), &origin(), None).unwrap();
        let before = used(&room).unwrap().to_vec();
        Head::new(&mut room[..]).unwrap().set_part(Part::Path, b"/other").unwrap();
        let mut parts = request();
        take_request(&room, &mut parts).unwrap();
        check_request_line(&room, &before).unwrap();
        assert_eq!(parts.uri.path(), "/other");
        assert_eq!(parts.headers["host"], host);
        Head::new(&mut room[..]).unwrap().set_part(Part::Authority, b"x:y:z").unwrap();
        assert!(take_request(&room, &mut request()).is_err());
        assert!(check_request_line(&room, &before).is_err());
    }
}
