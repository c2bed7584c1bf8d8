//! TLS: server names, ALPN, certificates that change, are wrong or expire, upstreams.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, SystemTime};

use crate::authority::{Authority, over_tls};
use crate::support::{self, Server, curl, curl_text, gateway_with, until};
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, HandshakeKind, ServerConfig, ServerConnection, StreamOwned};
use weir_gateway::{
    Certificate, Failure, Gateway, GatewayConfig, GatewayError, Protocol, UpstreamTls,
};

/// curl to this name at that address.
fn to<'a>(name: &str, address: SocketAddr, ca: &'a str, more: &[&'a str]) -> (Vec<String>, String) {
    let url = format!("https://{name}:{}/", address.port());
    let resolve = format!("{name}:{}:127.0.0.1", address.port());
    let mut arguments = vec!["--cacert".to_owned(), ca.to_owned(), "--resolve".to_owned(), resolve];
    arguments.extend(more.iter().map(|more| (*more).to_owned()));
    (arguments, url)
}

fn get(name: &str, address: SocketAddr, ca: &str, more: &[&str]) -> String {
    let (arguments, url) = to(name, address, ca, more);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain([url.as_str()]).collect();
    curl_text(&arguments)
}

fn works(name: &str, address: SocketAddr, ca: &str) -> bool {
    let (arguments, url) = to(name, address, ca, &[]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain([url.as_str()]).collect();
    curl(&arguments).status.success()
}

#[test]
fn the_server_name_picks_the_certificate_and_alpn_the_version() {
    let authority = Authority::new();
    let one = authority.sign("one", &["one.example"], false);
    let two = authority.sign("two", &["*.two.example"], false);
    let three = Certificate {
        names: vec!["Three.example".to_owned()],
        ..authority.sign("three", &["three.example", "four.example"], false)
    };
    let server = Server::echo();
    let (gateway, address) =
        gateway_with(&[server.address], |config| config.certificates = vec![one, two, three]);
    let ca = authority.ca();
    let answer = get("one.example", address, &ca, &["-i"]);
    assert!(answer.starts_with("HTTP/2 200"), "{answer}");
    assert!(answer.contains("x-forwarded-proto: https\r\n"), "{answer}");
    assert!(get("a.two.example", address, &ca, &["-i", "--http1.1"]).starts_with("HTTP/1.1 200"));
    assert!(get("three.example", address, &ca, &["-i"]).starts_with("HTTP/2 200"));
    // Names that no certificate is for get the first one, which curl does not take.
    assert!(!works("four.example", address, &ca) && !works("b.a.two.example", address, &ca));
    until("they are counted", || gateway.statistics().listeners[0].open == 0);
    let names: Vec<_> =
        gateway.statistics().listeners[0].certificates.iter().map(|c| c.names.clone()).collect();
    assert_eq!(names, [vec!["one.example"], vec!["*.two.example"], vec!["three.example"]]);
}

#[test]
fn a_session_is_resumed_however_many_other_clients_there_were() {
    let authority = Authority::new();
    let certificate = authority.sign("cert", &["a.example"], false);
    let server = Server::echo();
    let (_gateway, address) =
        gateway_with(&[server.address], |config| config.certificates = vec![certificate]);
    let client = || authority.trusted().with_no_client_auth();
    let connect = |config: &Arc<ClientConfig>| {
        let mut stream = over_tls(config, "a.example", address);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
        stream.conn.handshake_kind().unwrap()
    };
    let mut other = client();
    other.resumption = Resumption::disabled();
    let (first, other) = (Arc::new(client()), Arc::new(other));
    assert_eq!(connect(&first), HandshakeKind::Full);
    for _ in 0..140 {
        connect(&other);
    }
    assert_eq!(connect(&first), HandshakeKind::Resumed);
}

#[test]
fn certificates_that_change_are_taken_and_wrong_ones_are_not() {
    let authority = Authority::new();
    let certificate = authority.sign("cert", &["old.example"], false);
    let server = Server::echo();
    let (gateway, address) = gateway_with(&[server.address], |config| {
        config.certificates = vec![certificate.clone()];
    });
    let ca = authority.ca();
    assert!(works("old.example", address, &ca));
    authority.sign("cert", &["new.example"], false);
    gateway.reload().unwrap();
    assert!(works("new.example", address, &ca) && !works("old.example", address, &ca));
    // A key of another certificate.
    let other = authority.sign("other", &["other.example"], false);
    fs::copy(&other.key, &certificate.key).unwrap();
    let errors = gateway.reload().unwrap_err();
    assert!(errors[0].to_string().contains("not the key of"), "{errors:?}");
    fs::write(&certificate.certificate, "no certificate").unwrap();
    assert!(gateway.reload().is_err());
    assert!(works("new.example", address, &ca));
    // Files that change are found without being told of it.
    authority.sign("cert", &["newer.example"], false);
    until("it is found", || works("newer.example", address, &ca));
}

#[test]
fn wrong_files_keep_a_listener_from_starting_and_say_why() {
    let authority = Authority::new();
    let good = authority.sign("good", &["a.example"], false);
    let other = authority.sign("other", &["b.example"], false);
    let gateway = Gateway::start(GatewayConfig::default()).unwrap();
    let start = |certificate: &Path, key: &Path| {
        let config = support::listener(&["127.0.0.1:1".parse().unwrap()], |config| {
            let (certificate, key) = (certificate.to_owned(), key.to_owned());
            config.certificates = vec![Certificate { certificate, key, names: Vec::new() }];
        });
        let error = gateway.set(config).unwrap_err();
        assert!(matches!(error, GatewayError::Certificate { .. }), "{error}");
        error.to_string()
    };
    assert!(
        start(&authority.file("absent"), &good.key).contains("absent: cannot be read: No such")
    );
    assert!(start(&good.key, &good.key).contains("no certificate in it"));
    assert!(start(&good.certificate, &good.certificate).contains("no private key"));
    assert!(start(&good.certificate, &other.key).contains("not the key of"));
    // Without extensions openssl makes version 1.
    let (old, key) = (authority.file("old"), good.key.to_str().unwrap());
    let request = authority.file("request");
    let openssl = |arguments: &[&str]| {
        let made = Command::new("openssl").args(arguments).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    let (to, made) = (request.to_str().unwrap(), old.to_str().unwrap());
    openssl(&["req", "-new", "-key", key, "-subj", "/CN=a.example", "-out", to]);
    openssl(&["x509", "-req", "-in", to, "-signkey", key, "-out", made]);
    let told = start(&old, &good.key);
    assert!(told.contains("old: the first certificate cannot be used"), "{told}");
    assert!(told.contains("X.509 version 1"), "{told}");
}

#[test]
fn an_expired_certificate_is_told_of_and_refused_by_clients() {
    let authority = Authority::new();
    let expired = authority.sign("expired", &["a.example"], true);
    let server = Server::echo();
    let (gateway, address) =
        gateway_with(&[server.address], |config| config.certificates = vec![expired]);
    assert!(!works("a.example", address, &authority.ca()));
    until("it is counted", || gateway.statistics().listeners[0].failed(Failure::Tls) == 1);
    assert!(gateway.statistics().listeners[0].certificates[0].expires < SystemTime::now());
}

#[test]
fn what_is_not_tls_is_not_served() {
    let authority = Authority::new();
    let certificate = authority.sign("cert", &["a.example"], false);
    let server = Server::echo();
    let (gateway, address) = gateway_with(&[server.address], |config| {
        config.certificates = vec![certificate];
        config.timeouts.header = Duration::from_millis(200);
    });
    let answer = support::talk(address, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(!answer.contains("HTTP/1.1"), "{answer}");
    // A handshake that does not go on.
    assert!(!support::talk(address, "\x16\x03\x01").contains("HTTP"));
    until("both are counted", || {
        let statistics = &gateway.statistics().listeners[0];
        statistics.failed(Failure::Tls) == 1 && statistics.failed(Failure::ClientSlow) == 1
    });
    assert_eq!(server.connections(), 0);
}

#[test]
fn upstreams_are_spoken_to_over_tls_and_must_be_who_they_are() {
    let authority = Authority::new();
    let certificate = authority.sign("inner", &["inner.example"], false);
    let server = Server::echo();
    let (_inner, inner) =
        gateway_with(&[server.address], |config| config.certificates = vec![certificate]);
    for http2 in [false, true] {
        let via = |name: &str| {
            gateway_with(&[inner], |config| {
                config.upstreams[0].http2 = http2;
                config.upstreams[0].tls = Some(UpstreamTls {
                    server_name: name.to_owned(),
                    authorities: Some(authority.file("ca.pem")),
                    identity: None,
                });
            })
        };
        let (_gateway, address) = via("inner.example");
        let answer = curl_text(&["-i", &format!("http://{address}/x")]);
        let version = if http2 { "via: 2 weir" } else { "via: 1.1 weir" };
        assert!(answer.contains("GET /x HTTP/1.1\r\n") && answer.contains(version), "{answer}");
        let (gateway, address) = via("other.example");
        for _ in 0..3 {
            let answer = curl_text(&["-i", &format!("http://{address}/x")]);
            assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
        }
        let statistics = &gateway.statistics().listeners[0];
        assert_eq!(statistics.failed(Failure::Connect), 3);
        let upstream = &statistics.upstreams[0];
        let failed = [Failure::Tls, Failure::Connect].map(|failure| upstream.failed(failure));
        assert_eq!(failed, [3, 0]);
        let problem = upstream.problem.as_deref().unwrap();
        assert!(problem.starts_with("tls: invalid peer certificate: "), "{problem}");
    }
}

#[test]
fn an_upstream_that_shows_an_authoritys_certificate_is_refused_with_the_reason() {
    let authority = Authority::new();
    let (certificate, key) = (authority.file("ca.pem"), authority.file("ca.key"));
    fs::write(&key, authority.issuer.key().serialize_pem()).unwrap();
    let names = vec!["ca.example".to_owned()];
    let own = Certificate { certificate: certificate.clone(), key, names };
    let (_inner, inner) =
        gateway_with(&[Server::echo().address], |config| config.certificates = vec![own]);
    let (gateway, address) = gateway_with(&[inner], |config| {
        let server_name = "ca.example".to_owned();
        let authorities = Some(certificate);
        config.upstreams[0].tls = Some(UpstreamTls { server_name, authorities, identity: None });
    });
    for _ in 0..3 {
        let answer = curl_text(&["-i", &format!("http://{address}/x")]);
        assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    }
    let upstream = &gateway.statistics().listeners[0].upstreams[0];
    let problem = upstream.problem.as_deref().unwrap();
    assert!(problem.contains("without CA:TRUE"), "{problem}");
}

#[test]
fn bytes_pass_through_tls_on_l4_too() {
    let authority = Authority::new();
    let certificate = authority.sign("cert", &["a.example"], false);
    let server = Server::echo();
    let (_gateway, address) = gateway_with(&[server.address], |config| {
        config.protocol = Protocol::Tcp;
        config.certificates = vec![certificate];
    });
    let answer = get("a.example", address, &authority.ca(), &["-i"]);
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("via"), "{answer}");
}

#[test]
fn what_came_before_a_peer_ends_without_a_word_arrives_on_l4() {
    let authority = Authority::new();
    let certificate = authority.sign("cert", &["a.example"], false);
    let (got, all) = mpsc::channel();
    let got = Mutex::new(got);
    let server = Server::start(move |mut stream, _| {
        // Behind, so that the gateway has some of it when the client is gone.
        std::thread::sleep(Duration::from_millis(300));
        let mut bytes = Vec::new();
        let ended = stream.read_to_end(&mut bytes).map(drop).map_err(|error| error.kind());
        got.lock().unwrap().send((bytes.len(), ended)).unwrap();
    });
    let (gateway, address) = gateway_with(&[server.address], |config| {
        config.protocol = Protocol::Tcp;
        config.certificates = vec![certificate];
    });
    let client = Arc::new(authority.trusted().with_no_client_auth());
    let mut stream = over_tls(&client, "a.example", address);
    stream.write_all(&vec![7; 2_000_000]).unwrap();
    // TCP ends, and TLS says nothing.
    stream.sock.shutdown(Shutdown::Write).unwrap();
    assert_eq!(all.recv_timeout(Duration::from_secs(20)).unwrap(), (2_000_000, Ok(())));
    let _ = stream.sock.read_to_end(&mut Vec::new());
    until("it is over", || gateway.statistics().listeners[0].open == 0);
    assert_eq!(gateway.statistics().listeners[0].failed(Failure::ClientGone), 0);
}

#[test]
fn an_upstream_of_tcp_is_not_told_that_it_is_spoken_http_to() {
    let authority = Authority::new();
    let Certificate { certificate, key, .. } = authority.sign("db", &["db.example"], false);
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_file(certificate).unwrap()],
            PrivateKeyDer::from_pem_file(key).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    let config = Arc::new(config);
    let server = Server::start(move |stream, _| {
        let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = StreamOwned::new(connection, stream);
        let mut word = [0; 5];
        if stream.read_exact(&mut word).is_ok() {
            stream.write_all(&word).unwrap();
        }
    });
    let (_gateway, address) = gateway_with(&[server.address], |config| {
        config.protocol = Protocol::Tcp;
        config.upstreams[0].tls = Some(UpstreamTls {
            server_name: "db.example".to_owned(),
            authorities: Some(authority.file("ca.pem")),
            identity: None,
        });
    });
    let mut client = support::connect(address);
    client.write_all(b"hello").unwrap();
    let mut echoed = [0; 5];
    client.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"hello");
}
