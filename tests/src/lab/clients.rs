//! What the hosts of the laboratory say to each other: servers on the right, clients on the left.

use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use serde_json::Value;

use super::{Lab, Running};

/// What the name server knows.
const NAME: &str = "weir.test";
const NAME_V4: &str = "192.0.2.7";
const NAME_V6: &str = "2001:db8::7";

impl Lab {
    /// Servers on the right: HTTP on port 80 with a file of so many bytes, iperf3 and a name server
    /// on their ports.
    pub fn serve(&mut self, file_bytes: usize) {
        let www = self.path("www");
        fs::create_dir_all(&www).expect("a directory");
        let bytes: Vec<u8> = (0..file_bytes).map(|n| (n * 31 + n / 256) as u8).collect();
        fs::write(www.join("file"), bytes).expect("the file is written");
        let www = www.display();
        for server in [
            format!("python3 -m http.server --bind :: --directory {www} 80"),
            "iperf3 --server".to_owned(),
            format!(
                "dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --no-poll --user=root \
                 --pid-file= --host-record={NAME},{NAME_V4},{NAME_V6}"
            ),
        ] {
            self.servers.push(self.right.start(&server));
        }
        self.wait("the servers listen", |lab| {
            let listening = lab.right.sh("ss --listening --tcp --udp --numeric --no-header");
            [":80 ", ":5201 ", ":53 "].iter().all(|port| listening.contains(port))
        });
    }

    /// What the host tells, for who looks for what was lost.
    fn told(&self) -> String {
        format!("{}\n{}\n{}", self.status(), self.weir(&["port", "list"]), self.log())
    }

    /// Pings from the left: all answers must come. Late ones are waited for, meanwhile further ones
    /// are sent.
    pub fn ping(&self, address: &str) {
        const COUNT: u32 = 15;
        const LATE: u32 = 5;
        let ping = format!("ping -n -c {COUNT} -w 10 -i 0.02 -s 1400 {address}");
        let output = self.left.start(&ping).output();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}\n{}", self.told());
        let sent = said.split(" packets transmitted").next().and_then(|text| text.lines().last());
        let sent: u32 = sent.and_then(|n| n.parse().ok()).expect("ping says how many it sent");
        assert!(sent <= COUNT + LATE, "{said}");
    }

    /// Asks the name server, by UDP and by TCP, for addresses of both kinds.
    pub fn dig(&self, server: &str) {
        for (kind, answer) in [("A", NAME_V4), ("AAAA", NAME_V6)] {
            for transport in ["+notcp", "+tcp"] {
                let said = self.left.sh(&format!(
                    "dig +short +tries=3 +time=2 {transport} @{server} {NAME} {kind}"
                ));
                assert_eq!(said.trim(), answer, "{kind} {transport}");
            }
        }
    }

    /// Fetches the file from the left, and compares it.
    pub fn fetch(&self, host: &str) {
        self.finish_fetch(self.start_fetch(host, "1G"));
    }

    /// Begins to fetch the file at this many bytes a second.
    #[must_use]
    pub fn start_fetch(&self, host: &str, rate: &str) -> Running {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let file = self.path("fetched");
        self.left.start(&format!(
            "curl --silent --show-error --fail --globoff --max-time 30 --limit-rate {rate} --output {} \
             http://{host}/file",
            file.display()
        ))
    }

    /// Waits until the file is there, and compares it.
    pub fn finish_fetch(&self, client: Running) {
        let output = client.output();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "curl: {}: {said}\n{}", output.status, self.told());
        let [fetched, served] = ["fetched", "www/file"].map(|file| fs::read(self.path(file)));
        assert!(fetched.expect("fetched") == served.expect("served"), "the file is another");
    }

    /// Runs iperf3 from the left; the answer is its report's end.
    pub fn iperf(&self, arguments: &str) -> Value {
        for _ in 0..20 {
            let output = self.left.start(&format!("iperf3 --json {arguments}")).output();
            let mut report: Value =
                serde_json::from_slice(&output.stdout).expect("a report of iperf3");
            match report["error"].as_str() {
                None => return report["end"].take(),
                // With the client before this one, of which it lets go in its own time.
                Some(busy) if busy.contains("is busy") || busy.contains("unable to connect") => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                Some(error) => panic!("iperf3 {arguments}: {error}"),
            }
        }
        panic!("the server of iperf3 stays busy");
    }

    /// TCP in both directions, and UDP, at this address.
    pub fn streams(&self, address: &str) {
        for direction in ["", "--reverse"] {
            let tcp = self.iperf(&format!("--client {address} --bytes 10M {direction}"));
            assert!(tcp["sum_received"]["bytes"].as_u64() > Some(5_000_000), "{tcp}");
        }
        let udp = self.iperf(&format!(
            "--client {address} --bytes 1M --udp --bitrate 20M --length 1200 --window 1M"
        ));
        assert!(udp["sum"]["packets"].as_u64() > Some(800), "{udp}");
        assert!(udp["sum"]["lost_percent"].as_f64() < Some(5.0), "{udp}");
    }

    /// One datagram from the left.
    pub fn datagram(&self, address: &'static str, port: u16) {
        let sending = self.left.thread(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            socket.send_to(b"weir", (address, port)).expect("it is sent");
        });
        sending.join().expect("it was sent");
    }
}
