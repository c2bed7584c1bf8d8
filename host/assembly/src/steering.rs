//! Steering rules as operators write them, made into those that the packet plane compares.

use std::collections::BTreeMap;

use weir_spec::{EtherType, IpPrefix, MacAddress, Name, PortRange, SteerTo, SteeringRule};
use weir_steering::{Ports, Prefix, Rule, Target};

/// A tenant's rules as they concern the packets between two ports.
#[derive(Debug)]
pub struct CompiledSteering {
    /// The rules; chains are places in `chains`.
    pub rules: Vec<Rule>,
    /// Chains that rules name.
    pub chains: Vec<Name>,
    /// For each of `rules` the place of the rule that the operator wrote, from 0.
    pub written: Vec<u32>,
}

/// Takes what concerns the packets between two ports out of a tenant's rules: `number` knows the
/// ports, `is_here` the chains between them. Rules for other ports or chains mean none of these
/// packets.
#[must_use]
pub fn compile_steering(
    rules: &[SteeringRule],
    number: impl Fn(&Name) -> Option<u16>,
    is_here: impl Fn(&Name) -> bool,
) -> CompiledSteering {
    let mut known = BTreeMap::new();
    let mut compiled =
        CompiledSteering { rules: Vec::new(), chains: Vec::new(), written: Vec::new() };
    for (place, rule) in rules.iter().enumerate() {
        let port = match rule.port.as_ref().map(&number) {
            Some(None) => continue,
            Some(port) => port,
            None => None,
        };
        let target = match (&rule.chain, rule.to) {
            (Some(chain), _) if is_here(chain) => {
                let number = *known.entry(chain).or_insert_with(|| {
                    compiled.chains.push(chain.clone());
                    (compiled.chains.len() - 1) as u16
                });
                Target::Chain(number)
            }
            (Some(_), _) => continue,
            (None, Some(SteerTo::Kernel)) => Target::Kernel,
            (None, Some(SteerTo::Drop) | None) => Target::Drop,
        };
        compiled.rules.push(rule_of(rule, port, target));
        compiled.written.push(place as u32);
    }
    compiled
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

    use super::*;

    fn compiled(text: &str) -> CompiledSteering {
        let steering = Document::<Steering>::parse("s.toml", text).unwrap().value;
        let number = |name: &Name| ["lan", "wan"].iter().position(|p| *p == name.as_str());
        let number = |name: &Name| number(name).map(|n| n as u16);
        compile_steering(&steering.rules, number, |chain| chain.as_str() != "elsewhere")
    }

    #[test]
    fn rules_for_other_ports_and_chains_mean_none_of_these_packets() {
        let compiled = compiled(
            "[[rule]]\nchain = \"one\"\nport = \"lan\"\n[[rule]]\nchain = \"elsewhere\"\n\
             [[rule]]\nport = \"wan\"\nchain = \"two\"\n[[rule]]\nport = \"other\"\nto = \"drop\"\n\
             [[rule]]\nchain = \"one\"\n[[rule]]\nto = \"kernel\"\n",
        );
        let names: Vec<_> = compiled.chains.iter().map(Name::as_str).collect();
        assert_eq!(names, ["one", "two"]);
        assert_eq!(compiled.written, [0, 2, 4, 5]);
        let parts: Vec<_> = compiled.rules.iter().map(|rule| (rule.port, rule.target)).collect();
        let (one, two) = (Target::Chain(0), Target::Chain(1));
        assert_eq!(parts, [(Some(0), one), (Some(1), two), (None, one), (None, Target::Kernel)]);
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
