//! Clients' certificates, and files that a host does without: what an operator is told.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SerialNumber, date_time_ymd,
};
use rustix::process::Signal;

use crate::host::{Host, weir};
use crate::messages::{Server, address, curl};

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority(directory: &Path) -> Issuer {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.distinguished_name.push(DnType::CommonName, "authority");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let issuer = CertifiedIssuer::self_signed(params, key).expect("signed");
    fs::write(directory.join("ca.pem"), issuer.pem()).expect("written");
    issuer
}

/// Signs a certificate of this name and number, in `NAME.pem` and `NAME.key`.
fn sign(issuer: &Issuer, directory: &Path, name: &str, number: u64) {
    let mut params = CertificateParams::new(vec!["a.example".to_owned()]).expect("a name");
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from(number));
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().expect("a key");
    let signed = params.signed_by(&key, issuer).expect("signed");
    fs::write(directory.join(format!("{name}.pem")), signed.pem()).expect("written");
    fs::write(directory.join(format!("{name}.key")), key.serialize_pem()).expect("written");
}

fn list(issuer: &Issuer, revoked: &[u64]) -> String {
    let revoked = revoked.iter().map(|number| RevokedCertParams {
        serial_number: SerialNumber::from(*number),
        revocation_time: date_time_ymd(2024, 1, 1),
        reason_code: None,
        invalidity_date: None,
    });
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2024, 1, 1),
        next_update: date_time_ymd(2099, 1, 1),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(issuer).expect("signed").pem().expect("text")
}

fn config(more: &str) -> String {
    format!(
        "[api]\nsocket = \"api.sock\"\n[store]\npath = \"store\"\n[[listener]]\nname = \"web\"\n\
         address = \"127.0.0.1:0\"\nprotocol = \"http\"\n{more}\n"
    )
}

/// What curl gets that shows this certificate; none if it is refused.
fn get(host: &Host, certificate: &str) -> Option<String> {
    let address = address(host, 0);
    let mut curl = Command::new("curl");
    curl.current_dir(host.directory.path()).stderr(Stdio::null());
    curl.args(["--silent", "--max-time", "20", "--insecure", "--write-out", "%{http_code}"]);
    curl.args(["--cert", &format!("{certificate}.pem"), "--key", &format!("{certificate}.key")]);
    let output = curl.arg(format!("https://{address}/")).output().expect("curl starts");
    output.status.success().then(|| String::from_utf8(output.stdout).expect("text"))
}

fn metrics(host: &Host) -> String {
    let socket = host.path("api.sock");
    curl(&["--unix-socket", socket.to_str().expect("text"), "http://weir/metrics"]).1
}

#[test]
fn what_is_revoked_and_what_cannot_be_read_is_told() {
    let server = Server::start();
    let directory = tempfile::tempdir().expect("a directory");
    let issuer = authority(directory.path());
    for (number, name) in [(1, "server"), (7, "good"), (8, "bad")] {
        sign(&issuer, directory.path(), name, number);
    }
    fs::write(directory.path().join("revoked.pem"), list(&issuer, &[])).expect("written");
    let tls = "[[listener.tls]]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n\
               [listener.client-certificates]\nauthorities = \"ca.pem\"\nrevoked = \"revoked.pem\"";
    let text = config(&format!("upstream = [\"127.0.0.1:{}\"]\n{tls}", server.port));
    let mut host = Host::start_in(directory, &text);
    assert!(get(&host, "bad").is_some());

    // With a listener that cannot be had, which keeps nobody's certificate.
    host.write("revoked.pem", list(&issuer, &[8]));
    host.write("weir.toml", text.replace("127.0.0.1:0", "192.0.2.1:1"));
    host.signal(Signal::HUP);
    host.wait_for("it is refused", |host| host.log().contains("was not taken"));
    for _ in 0..10 {
        assert!(get(&host, "bad").is_none());
    }
    let log = host.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("listener web: tls:")).collect();
    assert!((1..10).contains(&lines.len()), "{log}");
    let line = lines[0];
    for part in [" INFO ", "certificate of 127.0.0.1:", "(CN=bad) refused: it is revoked"] {
        assert!(line.contains(part), "{line}");
    }
    assert!(get(&host, "good").is_some());

    // One that is no good is not taken, which is told for as long as it is so.
    host.write("weir.toml", &text);
    host.write("revoked.pem", "no list");
    let before = host.log().matches("was read again").count();
    host.signal(Signal::HUP);
    host.wait_for("it is read", |host| host.log().matches("was read again").count() > before);
    let problem = host.json(&["status"])["config_problem"].to_string();
    assert!(problem.contains("listener web:") && problem.contains("revoked.pem"), "{problem}");
    assert!(host.ok(&["status"]).contains("the configuration is not in force as it is written"));
    let zero = "weir_config_last_reload_successful 0.0";
    assert!(metrics(&host).contains(zero), "{}", metrics(&host));
    assert!(get(&host, "bad").is_none() && get(&host, "good").is_some());
    host.write("revoked.pem", list(&issuer, &[7, 8]));
    host.wait_for("it is found", |host| host.json(&["status"])["config_problem"].is_null());
    assert!(!metrics(&host).contains(zero));
    assert!(get(&host, "good").is_none());
    let expiry = "weir_listener_file_expiry_timestamp_seconds{listener=\"web\",upstream=\"\",key=\"revoked\"} 4070908800.0";
    assert!(metrics(&host).contains(expiry), "{}", metrics(&host));
}

#[test]
fn a_host_starts_without_the_directory_of_a_log_and_says_so() {
    let server = Server::start();
    let directory = tempfile::tempdir().expect("a directory");
    let log = "[listener.log]\nfile = \"logs/web.log\"";
    let text = config(&format!("upstream = [\"127.0.0.1:{}\"]\n{log}", server.port));
    let mut host = Host::start_in(directory, &text);
    let checked = weir(host.directory.path(), &["run", "--check"]);
    assert_eq!(checked.status, Some(0), "{}", checked.err);
    let note = "note: listener web: requests would not be written down before";
    assert!(checked.out.contains(note) && checked.out.contains("logs/web.log"), "{}", checked.out);
    host.wait_for("it is told", |host| host.log().contains("requests are not written down"));
    let problem = host.json(&["status"])["config_problem"].to_string();
    assert!(problem.contains("listener web:") && problem.contains("logs/web.log"), "{problem}");
    let url = format!("http://{}/", address(&host, 0));
    assert_eq!(curl(&[&url]).0, 200);
    fs::create_dir(host.path("logs")).expect("made");
    host.wait_for("it is found", |host| host.json(&["status"])["config_problem"].is_null());
    curl(&[&url]);
    host.wait_for("it is written", |host| {
        fs::read_to_string(host.path("logs/web.log")).is_ok_and(|text| text.lines().count() == 1)
    });
    assert_eq!(weir(host.directory.path(), &["run", "--check"]).out, "weir.toml: all right\n");
}
