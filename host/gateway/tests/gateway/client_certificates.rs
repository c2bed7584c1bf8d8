//! Clients' certificates: which are taken, what is said of them, and the gateway's own towards upstreams.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use rcgen::{
    CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    KeyIdMethod, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::HandshakeKind;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use weir_gateway::{
    Certificate, ClientCertificates, Failure, Gateway, Identity, ListenerConfig, UpstreamTls,
};

use crate::authority::{Authority, over_tls};
use crate::support::{Server, curl, curl_text, gateway_with, until};

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
        let (revoked, required) = (None, true);
        config.client_certificates = Some(ClientCertificates { authorities, revoked, required });
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
fn a_listener_that_asks_for_none_leaves_what_a_proxy_before_it_says() {
    let server = Server::echo();
    let (gateway, address) = gateway_with(&[server.address], |_| ());
    let url = format!("http://{address}/");
    let said = ["-i", "-H", "X-Forwarded-Client-Cert: Hash=1", &url];
    assert_eq!(told(&curl_text(&said)), ["x-forwarded-client-cert: Hash=1"]);
    drop(gateway);
    let (_gateway, address) = gateway_with(&[server.address], |config| {
        config.forwarded = weir_gateway::ForwardedFields::Replace;
    });
    let url = format!("http://{address}/");
    let said = ["-i", "-H", "X-Forwarded-Client-Cert: Hash=1", &url];
    assert!(told(&curl_text(&said)).is_empty());
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
    let revoked = serials.iter().map(|serial| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: date_time_ymd(2024, 1, 1),
        reason_code: None,
        invalidity_date: None,
    });
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2024, 1, 1),
        next_update: date_time_ymd(2099, 1, 1),
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
    let client = authority
        .trusted()
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_file(&shown.certificate).unwrap()],
            PrivateKeyDer::from_pem_file(&shown.key).unwrap(),
        )
        .unwrap();
    let client = Arc::new(client);
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
