//! Clients' certificates: which are taken, what is said of them, and the gateway's own towards
//! upstreams.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    KeyIdMethod, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, HandshakeKind};
use weir_gateway::{
    Certificate, ClientCertificates, Expiry, ExpiryOf, Failure, ForwardedFields, Gateway, Identity,
    ListenerConfig, Target, UpstreamTls,
};

use crate::authority::{Authority, over_tls};
use crate::support::{Server, curl, curl_text, gateway_with, read_head, until};

/// A gateway at `server.example` that asks for certificates of this authority.
fn asking(
    authority: &Authority,
    server: &Server,
    change: impl FnOnce(&mut ListenerConfig),
) -> (Gateway, SocketAddr) {
    let own = authority.sign("server", &["server.example"], false);
    let authorities = authority.file("ca.pem");
    gateway_with(&[server.address], |config| {
        config.certificates = vec![own];
        config.client_certificates = Some(ClientCertificates {
            authorities,
            revoked: None,
            enforce_next_update: false,
            required: true,
        });
        change(config);
    })
}

/// A certificate for a client, with a URI and a name that somebody chose to be believed more.
fn client(authority: &Authority, file: &str) -> Certificate {
    authority.sign_these(file, params(file))
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["a.client.example".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, "Example, \"Ltd\";Hash=0");
    params.subject_alt_names.push(SanType::URI("spiffe://example/a".try_into().unwrap()));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn ask(authority: &Authority, address: SocketAddr, more: &[&str]) -> Output {
    let port = address.port();
    let (url, to) = (format!("https://server.example:{port}/"), format!("::127.0.0.1:{port}"));
    let ca = authority.ca();
    let arguments = ["-i", "--cacert", &ca, "--connect-to", &to, &url];
    curl(&[&arguments, more].concat())
}

/// A client of TLS that shows this certificate.
fn with(authority: &Authority, shown: &Certificate) -> Arc<ClientConfig> {
    let certificate = CertificateDer::from_pem_file(&shown.certificate).unwrap();
    let key = PrivateKeyDer::from_pem_file(&shown.key).unwrap();
    Arc::new(authority.trusted().with_client_auth_cert(vec![certificate], key).unwrap())
}

/// curl's arguments to show this certificate.
fn showing(certificate: &Certificate) -> [&str; 4] {
    let (certificate, key) = (&certificate.certificate, &certificate.key);
    ["--cert", certificate.to_str().unwrap(), "--key", key.to_str().unwrap()]
}

fn answer(authority: &Authority, address: SocketAddr, more: &[&str]) -> String {
    let output = ask(authority, address, more);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What the upstream, which answers with what it got, was told of the client's certificate.
fn told(answer: &str) -> Vec<&str> {
    let name = "x-forwarded-client-cert: ";
    let fields = answer.lines().map(str::trim_end);
    fields.filter(|line| line.to_ascii_lowercase().replace('_', "-").starts_with(name)).collect()
}

fn openssl(certificate: &Path, arguments: &[&str]) -> String {
    let mut openssl = Command::new("openssl");
    openssl.args(["x509", "-noout", "-in"]).arg(certificate).args(arguments);
    let output = openssl.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.trim().split_once('=').unwrap().1.to_owned()
}

/// Its SHA-256, as the field says it.
fn fingerprint(certificate: &Path) -> String {
    openssl(certificate, &["-fingerprint", "-sha256"]).replace(':', "").to_lowercase()
}

#[test]
fn upstreams_are_told_what_a_certificate_says_and_not_what_the_client_says() {
    let authority = Authority::new();
    let server = Server::echo();
    let (_gateway, address) = asking(&authority, &server, |_| ());
    let shown = client(&authority, "a client");
    let hash = fingerprint(&shown.certificate);
    let subject = openssl(&shown.certificate, &["-subject", "-nameopt", "RFC2253"]);
    let expected = format!(
        "x-forwarded-client-cert: Hash={hash};Subject=\"{subject}\";DNS=a.client.example;URI=spiffe://example/a"
    );
    let forged = ["-H", "X-Forwarded-Client-Cert: Hash=0", "-H", "X_Forwarded_Client_Cert: Hash=0"];
    for version in ["--http1.1", "--http2"] {
        let more = [&showing(&shown)[..], &forged, &[version]].concat();
        assert_eq!(told(&answer(&authority, address, &more)), [&expected]);
    }
}

#[test]
fn a_client_without_a_certificate_gets_in_only_where_it_needs_none() {
    let authority = Authority::new();
    let server = Server::echo();
    let (gateway, address) = asking(&authority, &server, |_| ());
    assert!(!ask(&authority, address, &[]).status.success());
    until("it is counted", || gateway.statistics().listeners[0].failed(Failure::Tls) == 1);
    assert_eq!(server.connections(), 0);

    let (_gateway, address) = asking(&authority, &server, |config| {
        config.client_certificates.as_mut().unwrap().required = false;
    });
    let forged = ["-H", "X-Forwarded-Client-Cert: Hash=0"];
    let answer_without = answer(&authority, address, &forged);
    assert!(told(&answer_without).is_empty(), "{answer_without}");
    let shown = client(&authority, "client");
    assert_eq!(told(&answer(&authority, address, &showing(&shown))).len(), 1);
}

#[test]
fn a_listener_that_asks_for_none_leaves_the_word_of_a_proxy_that_is_believed_alone() {
    let server = Server::echo();
    for forwarded in [ForwardedFields::Append, ForwardedFields::Replace, ForwardedFields::Keep] {
        let (_gateway, address) =
            gateway_with(&[server.address], |config| config.forwarded = forwarded);
        let url = format!("http://{address}/");
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            let said = [
                "-i",
                version,
                "-H",
                "X-Forwarded-Client-Cert: Hash=1",
                "-H",
                "X_Forwarded_Client_Cert: Hash=2",
                &url,
            ];
            let answer = curl_text(&said);
            let kept = if forwarded == ForwardedFields::Keep { 2 } else { 0 };
            assert_eq!(told(&answer).len(), kept, "{forwarded:?}: {answer}");
        }
    }
}

#[test]
fn trailers_do_not_say_who_a_client_is_nor_for_whom_it_asks() {
    let authority = Authority::new();
    // Answers with what came behind the head.
    let server = Server::start(|mut stream, _| {
        let _ = read_head(&mut stream);
        let behind = read_head(&mut stream).unwrap_or_default();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", behind.len());
        let _ = stream.write_all(&[head.as_bytes(), &behind].concat());
    });
    let (_gateway, address) = asking(&authority, &server, |_| ());
    let shown = client(&authority, "client");
    let mut stream = over_tls(&with(&authority, &shown), "server.example", address);
    let request = "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: close, te\r\n\
        Trailer: x-forwarded-client-cert, checksum\r\nTransfer-Encoding: chunked\r\n\r\n\
        4\r\nbody\r\n0\r\nX-Forwarded-Client-Cert: Hash=00\r\nX_Forwarded_For: 1.1.1.1\r\n\
        X-Forwarded-Proto: no\r\nX-Forwarded-For: 1.1.1.1\r\nForwarded: for=1.1.1.1\r\n\
        Cookie: a=b\r\nAuthorization: Basic YTpi\r\nChecksum: 7\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    let answer = answer.to_lowercase();
    let (_, behind) = answer.split_once("4\r\nbody\r\n0\r\n").expect(&answer);
    assert_eq!(behind, "checksum: 7\r\n\r\n");
}

#[test]
fn certificates_of_others_expired_and_for_servers_are_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = Server::echo();
    let (gateway, address) = asking(&authority, &server, |_| ());
    let foreign = client(&other, "client");
    let mut of_server = params("for servers");
    of_server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let mut expired = params("expired");
    expired.not_before = date_time_ymd(2020, 1, 1);
    expired.not_after = date_time_ymd(2021, 1, 1);
    let of_server = authority.sign_these("of_server", of_server);
    let expired = authority.sign_these("expired", expired);
    for refused in [&foreign, &of_server, &expired] {
        assert!(!ask(&authority, address, &showing(refused)).status.success());
    }
    until("they are counted", || gateway.statistics().listeners[0].failed(Failure::Tls) == 3);
    assert_eq!(server.connections(), 0);
}

/// Writes the authority's list of what it revoked.
fn revoke(authority: &Authority, serials: &[u64]) {
    revoke_until(authority, serials, 2099);
}

/// The same, which is out of date when this year begins.
fn revoke_until(authority: &Authority, serials: &[u64], year: i32) {
    let revoked = serials.iter().map(|serial| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: date_time_ymd(2024, 1, 1),
        reason_code: None,
        invalidity_date: None,
    });
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2020, 1, 1),
        next_update: date_time_ymd(year, 1, 1),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&authority.issuer).unwrap();
    fs::write(authority.file("revoked.pem"), list.pem().unwrap()).unwrap();
}

#[test]
fn what_is_revoked_is_refused_from_the_next_handshake_on() {
    let authority = Authority::new();
    let server = Server::echo();
    revoke(&authority, &[7]);
    let (gateway, address) = asking(&authority, &server, |config| {
        let revoked = Some(authority.file("revoked.pem"));
        config.client_certificates.as_mut().unwrap().revoked = revoked;
    });
    let mut with_serial = params("client");
    with_serial.serial_number = Some(SerialNumber::from(8_u64));
    let shown = authority.sign_these("client", with_serial);
    let client = with(&authority, &shown);
    let connect = || {
        let mut stream = over_tls(&client, "server.example", address);
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        (answer.starts_with(b"HTTP/1.1 200"), stream.conn.handshake_kind())
    };
    // Each time anew: a session that is resumed would not be looked at.
    for _ in 0..2 {
        assert_eq!(connect(), (true, Some(HandshakeKind::Full)));
    }
    revoke(&authority, &[7, 8]);
    until("the file is read again", || !connect().0);
    // One that is no good changes nothing.
    fs::write(authority.file("revoked.pem"), "no list").unwrap();
    let errors = gateway.reload().unwrap_err();
    assert!(errors[0].to_string().contains("there is no list in it"), "{errors:?}");
    assert!(!connect().0);
    // It is told for as long as it is so, also if nobody asks that files are read.
    let not_taken = || gateway.statistics().listeners[0].not_taken.clone();
    assert!(not_taken()[0].contains("there is no list in it"), "{:?}", not_taken());
    revoke(&authority, &[7]);
    until("the file is read again", || not_taken().is_empty());
    assert!(connect().0);
    fs::remove_file(authority.file("revoked.pem")).unwrap();
    until("it is found", || !not_taken().is_empty());
}

#[test]
fn an_upstream_that_asks_is_shown_the_gateways_own_also_when_it_changes() {
    let authority = Authority::new();
    let server = Server::echo();
    let (_inner, inner) = asking(&authority, &server, |config| {
        // Each request needs a new connection.
        config.limits.requests_per_connection = 1;
    });
    let via = |identity: Option<Identity>| {
        gateway_with(&[inner], |config| {
            config.upstreams[0].tls = Some(UpstreamTls {
                server_name: "server.example".to_owned(),
                authorities: Some(authority.file("ca.pem")),
                identity: identity.clone(),
            });
        })
    };
    let ask = |address: SocketAddr| curl_text(&["-i", &format!("http://{address}/")]);
    let (_without, address) = via(None);
    assert!(ask(address).starts_with("HTTP/1.1 502"), "{}", ask(address));
    let Certificate { certificate, key, .. } = client(&authority, "gateway");
    let (with, address) = via(Some(Identity { certificate: certificate.clone(), key }));
    let hash = || format!("Hash={};", fingerprint(&certificate));
    assert!(told(&ask(address))[0].contains(&hash()), "{}", ask(address));
    client(&authority, "gateway");
    with.reload().unwrap();
    let now = hash();
    assert!(told(&ask(address))[0].contains(&now), "{}", ask(address));
}

/// A gateway that looks into a list of what is revoked.
fn with_list(
    authority: &Authority,
    server: &Server,
    change: impl FnOnce(&mut ClientCertificates),
) -> (Gateway, SocketAddr) {
    asking(authority, server, |config| {
        let clients = config.client_certificates.as_mut().unwrap();
        clients.revoked = Some(authority.file("revoked.pem"));
        change(clients);
    })
}

/// A certificate with this serial number.
fn numbered(authority: &Authority, file: &str, number: u64) -> Certificate {
    let mut params = params(file);
    params.serial_number = Some(SerialNumber::from(number));
    authority.sign_these(file, params)
}

#[test]
fn a_connection_ends_with_its_next_response_when_other_lists_are_in_force() {
    let authority = Authority::new();
    let server = Server::echo();
    revoke(&authority, &[7]);
    let (gateway, address) = with_list(&authority, &server, |_| ());
    let shown = numbered(&authority, "client", 8);
    let client = with(&authority, &shown);
    let mut stream = over_tls(&client, "server.example", address);
    // The head of the response to another request on the same connection; none if there is none.
    let mut ask = || {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").ok()?;
        let (mut answer, mut byte) = (Vec::new(), [0]);
        while answer.windows(4).filter(|end| end == b"\r\n\r\n").count() < 2 {
            stream.read_exact(&mut byte).ok()?;
            answer.push(byte[0]);
        }
        Some(String::from_utf8(answer).unwrap().to_lowercase())
    };
    assert!(!ask().unwrap().contains("connection: close"));
    // The same files are the same, and a certificate of the server's own is not about clients.
    authority.sign("server", &["server.example"], false);
    gateway.reload().unwrap();
    assert!(!ask().unwrap().contains("connection: close"));
    revoke(&authority, &[7, 8]);
    gateway.reload().unwrap();
    let last = ask().unwrap();
    assert!(last.starts_with("http/1.1 200") && last.contains("connection: close"), "{last}");
    assert!(ask().is_none());

    // curl is told by GOAWAY, and connects anew for the second request, which is refused.
    revoke(&authority, &[7]);
    gateway.reload().unwrap();
    let accepted = || gateway.statistics().listeners[0].accepted;
    let before = accepted();
    let (url, to) = (
        format!("https://server.example:{}/", address.port()),
        format!("::127.0.0.1:{}", address.port()),
    );
    let ca = authority.ca();
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--http2", "--max-time", "20", "--cacert", &ca, "--connect-to", &to]);
    curl.args(showing(&shown)).args(["--rate", "1/s", "-w", "%{http_code}\n", "-o", "/dev/null"]);
    curl.args([&url, "-o", "/dev/null", &url, "-o", "/dev/null", &url]);
    let curl = curl.stdout(std::process::Stdio::piped()).spawn().unwrap();
    until("the first is answered", || gateway.statistics().listeners[0].responses[1] > 3);
    revoke(&authority, &[7, 8]);
    gateway.reload().unwrap();
    let output = curl.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "200\n200\n000\n");
    assert_eq!(accepted() - before, 2);
}

#[test]
fn a_list_that_is_out_of_date_counts_unless_it_is_not_to() {
    let authority = Authority::new();
    let server = Server::echo();
    revoke_until(&authority, &[7], 2021);
    let shown = numbered(&authority, "client", 8);
    let (gateway, address) = with_list(&authority, &server, |_| ());
    assert!(ask(&authority, address, &showing(&shown)).status.success());
    let expiries = gateway.statistics().listeners[0].expiries.clone();
    let of_list = expiries.iter().find(|(_, expiry)| expiry.of == ExpiryOf::Revoked).unwrap();
    let expected = std::time::UNIX_EPOCH + Duration::from_secs(1_609_459_200);
    assert_eq!((&of_list.0, of_list.1.at), (&None, expected));
    assert!(expiries.iter().any(|(_, expiry)| expiry.of == ExpiryOf::Authorities));
    let (gateway, address) = with_list(&authority, &server, |clients| {
        clients.enforce_next_update = true;
    });
    assert!(!ask(&authority, address, &showing(&shown)).status.success());
    until("it is counted", || gateway.statistics().listeners[0].failed(Failure::Tls) == 1);
    revoke(&authority, &[7]);
    gateway.reload().unwrap();
    assert!(ask(&authority, address, &showing(&shown)).status.success());
}

#[test]
fn an_upstream_that_refuses_the_gateways_own_is_told_with_its_alert() {
    let authority = Authority::new();
    let server = Server::echo();
    let (_inner, inner) = asking(&authority, &server, |_| ());
    let mut expired = params("expired");
    expired.not_before = date_time_ymd(2020, 1, 1);
    expired.not_after = date_time_ymd(2021, 1, 1);
    let Certificate { certificate, key, .. } = authority.sign_these("expired", expired);
    for http2 in [false, true] {
        let (gateway, address) = gateway_with(&[inner], |config| {
            config.upstreams[0].http2 = http2;
            config.retry.attempts = 0;
            config.upstreams[0].tls = Some(UpstreamTls {
                server_name: "server.example".to_owned(),
                authorities: Some(authority.file("ca.pem")),
                identity: Some(Identity { certificate: certificate.clone(), key: key.clone() }),
            });
        });
        let url = format!("http://{address}/");
        let ask = || assert!(curl_text(&["-i", &url]).starts_with("HTTP/1.1 502"));
        let told = |gateway: &Gateway| gateway.statistics().listeners.remove(0);
        if http2 {
            // What is sent behind the handshake may have the kernel reset the connection, and the
            // alert is lost then.
            let is_told = |_| {
                ask();
                told(&gateway).upstreams[0].failed(Failure::Tls) > 0
            };
            assert!((0..100).any(is_told));
        } else {
            (0..3).for_each(|_| ask());
        }
        let listener = told(&gateway);
        if !http2 {
            let upstream = &listener.upstreams[0];
            assert_eq!(upstream.failed(Failure::Tls), 3, "{upstream:?}");
            let problem = upstream.problem.as_deref().unwrap_or_default();
            assert!(problem.contains("tls: received fatal alert: CertificateExpired"), "{problem}");
        }
        let of_own = |(upstream, expiry): &&(Option<Target>, Expiry)| {
            upstream.is_some() && expiry.of == ExpiryOf::Certificate
        };
        let expected = std::time::UNIX_EPOCH + Duration::from_secs(1_609_459_200);
        assert_eq!(listener.expiries.iter().find(of_own).unwrap().1.at, expected);
    }
}
