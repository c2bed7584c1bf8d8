//! Steering rules as operators write them, made into those that the packet plane compares.

use std::collections::BTreeMap;

use weir_spec::{EtherType, IpPrefix, MacAddress, Name, PortRange, SteerTo, SteeringRule};
use weir_steering::{Ports, Prefix, Rule, Table, Target};

/// A tenant's rules, ready to be asked.
#[derive(Debug)]
pub struct Compiled {
    /// Finds the rule. Its numbers are places in `rules` ...
    pub table: Table,
    /// ... its chains places in this list.
    pub chains: Vec<Name>,
    /// The rules that it was made of.
    pub rules: Vec<Rule>,
    /// For each of them the place of the rule that the operator wrote, from 0.
    pub written: Vec<u32>,
}

/// The number of no port: what it names comes in nowhere.
const NOWHERE: u16 = u16::MAX;

/// Compiles rules. `port` knows the number of a port, `ports_of` the ports by which packets come to a chain: a rule without a
/// port means only those. A rule for a port or chain that is not there means nothing, and is there nevertheless.
#[must_use]
pub fn compile_steering(
    rules: &[SteeringRule],
    port: impl Fn(&Name) -> Option<u16>,
    ports_of: impl Fn(&Name) -> Vec<u16>,
) -> Compiled {
    let mut chains = Chains::default();
    let (mut compiled, mut written) = (Vec::with_capacity(rules.len()), Vec::new());
    for (place, rule) in rules.iter().enumerate() {
        let (target, mut ports) = match (&rule.chain, rule.to) {
            (Some(chain), _) => {
                let (number, ports) = chains.number(chain, &ports_of);
                (Target::Chain(number), ports.iter().copied().map(Some).collect())
            }
            (None, Some(SteerTo::Kernel)) => (Target::Kernel, vec![None]),
            (None, Some(SteerTo::Drop) | None) => (Target::Drop, vec![None]),
        };
        if let Some(named) = &rule.port {
            ports = vec![Some(port(named).unwrap_or(NOWHERE))];
        }
        if ports.is_empty() {
            ports.push(Some(NOWHERE));
        }
        for port in ports {
            compiled.push(rule_of(rule, port, target));
            written.push(place as u32);
        }
    }
    Compiled { table: Table::new(&compiled), chains: chains.names, rules: compiled, written }
}

/// Chains in the order in which they are named.
#[derive(Default)]
struct Chains {
    names: Vec<Name>,
    known: BTreeMap<Name, (u16, Vec<u16>)>,
}

impl Chains {
    fn number(&mut self, name: &Name, ports_of: impl Fn(&Name) -> Vec<u16>) -> (u16, &[u16]) {
        let (number, ports) = self.known.entry(name.clone()).or_insert_with(|| {
            self.names.push(name.clone());
            ((self.names.len() - 1) as u16, ports_of(name))
        });
        (*number, ports)
    }
}

fn rule_of(rule: &SteeringRule, port: Option<u16>, target: Target) -> Rule {
    Rule {
        port,
        vlan: rule.vlan,
        ethertype: rule.ethertype.map(EtherType::get),
        source_mac: rule.src_mac.map(MacAddress::get),
        destination_mac: rule.dst_mac.map(MacAddress::get),
        source: rule.src.map(prefix),
        destination: rule.dst.map(prefix),
        protocol: rule.proto.map(weir_spec::IpProtocol::get),
        source_ports: rule.sport.map(ports),
        destination_ports: rule.dport.map(ports),
        dscp: rule.dscp,
        target,
    }
}

fn prefix(prefix: IpPrefix) -> Prefix {
    Prefix { address: prefix.address(), length: prefix.length() }
}

fn ports(range: PortRange) -> Ports {
    (range.first(), range.last())
}

#[cfg(test)]
mod tests {
    use weir_spec::{Document, Steering};
    use weir_steering::Key;

    use super::*;

    fn compiled(text: &str) -> Compiled {
        let steering = Document::<Steering>::parse("s.toml", text).unwrap().value;
        let port = |name: &Name| ["lan", "wan"].iter().position(|p| *p == name.as_str());
        let port = |name: &Name| port(name).map(|n| n as u16);
        let ports_of = |chain: &Name| match chain.as_str() {
            "both" => vec![0, 1],
            "one" => vec![0],
            _ => Vec::new(),
        };
        compile_steering(&steering.rules, port, ports_of)
    }

    #[test]
    fn rules_mean_the_ports_of_their_chain() {
        let compiled = compiled(
            "[[rule]]\nchain = \"one\"\n[[rule]]\nchain = \"gone\"\n[[rule]]\nport = \"wan\"\nchain = \"both\"\n\
             [[rule]]\nchain = \"both\"\n[[rule]]\nto = \"kernel\"\n",
        );
        let names: Vec<_> = compiled.chains.iter().map(Name::as_str).collect();
        assert_eq!(names, ["one", "gone", "both"]);
        assert_eq!(compiled.written, [0, 1, 2, 3, 3, 4]);
        let by = |port| {
            let found = compiled.table.classify(&Key { port, ..Key::default() });
            found.map(|(n, target)| (compiled.written[n as usize], target))
        };
        assert_eq!(by(0), Some((0, Target::Chain(0))));
        assert_eq!(by(1), Some((2, Target::Chain(2))));
        assert_eq!(by(7), Some((4, Target::Kernel)));
    }

    #[test]
    fn everything_that_is_written_counts() {
        let compiled = compiled(
            "[[rule]]\nport = \"lan\"\nsrc = \"10.0.0.0/8\"\ndst = \"192.0.2.7\"\nproto = \"tcp\"\nsport = \"1-9\"\n\
             dport = 443\nvlan = 7\ndscp = 46\nethertype = \"ipv4\"\nsrc-mac = \"02:00:00:00:00:01\"\n\
             dst-mac = \"02:00:00:00:00:02\"\nto = \"drop\"\n",
        );
        let rule = Rule {
            port: Some(0),
            vlan: Some(7),
            ethertype: Some(0x0800),
            source_mac: Some([2, 0, 0, 0, 0, 1]),
            destination_mac: Some([2, 0, 0, 0, 0, 2]),
            source: Some(Prefix { address: [10, 0, 0, 0].into(), length: 8 }),
            destination: Some(Prefix { address: [192, 0, 2, 7].into(), length: 32 }),
            protocol: Some(6),
            source_ports: Some((1, 9)),
            destination_ports: Some((443, 443)),
            dscp: Some(46),
            target: Target::Drop,
        };
        assert_eq!(compiled.rules, [rule]);
    }
}
