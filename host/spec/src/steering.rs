//! Steering files: which packets go to which chain, to the kernel, or nowhere.

use serde::{Deserialize, Deserializer, Serialize};

use crate::Name;
use crate::invalid::{Check, Invalid};
use crate::list::{Keyed, at_most};
use crate::packet::{IpPrefix, IpProtocol, PortRange};
use crate::xdp::{EtherType, MacAddress, check_vlan};

/// Rules of a tenant at most.
const RULES_MAX: usize = 131_072;
/// Largest differentiated services code point (RFC 2474).
const DSCP_MAX: u8 = 63;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// A steering file, and the body of `PUT /v1/steering`: all rules of a tenant. The first one that
/// means a packet decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Steering {
    /// The rules, in the order in which they are compared.
    #[serde(rename = "rule", default, deserialize_with = "rules")]
    #[cfg_attr(feature = "openapi", schema(max_items = 131_072))]
    pub rules: Vec<SteeringRule>,
}

/// As many rules as there can be.
fn rules<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<SteeringRule>, D::Error> {
    let too_many = format_args!("there are too many rules; allowed are {RULES_MAX}");
    let rules = at_most(from, RULES_MAX, too_many)?;
    Ok(rules.into_iter().map(|Keyed(rule)| rule).collect())
}

/// Where packets go that go to no chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum SteerTo {
    /// To the kernel of the host's machine.
    Kernel,
    /// Nowhere.
    Drop,
}

/// `[[rule]]`: which packets, and where they go. All that is named has to be so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SteeringRule {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// The port by which they come in; any of the chain's if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Name>,
    /// Source address, or its prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::PrefixSchema>))]
    pub src: Option<IpPrefix>,
    /// Destination address, or its prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::PrefixSchema>))]
    pub dst: Option<IpPrefix>,
    /// The protocol behind IP's headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::ProtocolSchema>))]
    pub proto: Option<IpProtocol>,
    /// Source port, or a range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::PortsSchema>))]
    pub sport: Option<PortRange>,
    /// Destination port, or a range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::PortsSchema>))]
    pub dport: Option<PortRange>,
    /// The outer VLAN's number.
    #[serde(
        default,
        deserialize_with = "crate::text::whole",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(maximum = 4094))]
    pub vlan: Option<u16>,
    /// Differentiated services code point.
    #[serde(
        default,
        deserialize_with = "crate::text::whole",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(maximum = 63))]
    pub dscp: Option<u8>,
    /// What the frame carries, behind VLAN tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::EtherTypeSchema>))]
    pub ethertype: Option<EtherType>,
    /// Source hardware address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::MacAddressSchema>))]
    pub src_mac: Option<MacAddress>,
    /// Destination hardware address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::MacAddressSchema>))]
    pub dst_mac: Option<MacAddress>,
    /// The chain that they go to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<Name>,
    /// Where they go instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<SteerTo>,
}

impl SteeringRule {
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        let either = "add one of: `chain = \"NAME\"`, `to = \"kernel\"`, `to = \"drop\"`";
        match (&self.chain, self.to) {
            (None, None) => {
                return Err(Invalid::whole("the rule does not say where packets go").help(either));
            }
            (Some(_), Some(_)) => {
                return Err(Invalid::at("to", "`chain` and `to` exclude each other")
                    .help("keep one of them"));
            }
            _ => {}
        }
        check_vlan(self.vlan)?;
        if let Some(dscp) = self.dscp.filter(|dscp| *dscp > DSCP_MAX) {
            return Err(Invalid::at("dscp", format!("there is no code point {dscp}"))
                .help(format!("allowed: 0 to {DSCP_MAX}")));
        }
        self.check_ports()?;
        self.check_family()
    }

    fn check_ports(&self) -> Result<(), Invalid> {
        let Some(protocol) = self.proto.filter(|protocol| !protocol.has_ports()) else {
            return Ok(());
        };
        for (key, ports) in [("sport", self.sport), ("dport", self.dport)] {
            if ports.is_some() {
                return Err(Invalid::at(
                    key,
                    format!("packets of protocol {protocol} have no ports"),
                )
                .help("leave it out, or use `proto` tcp, udp, sctp, dccp or udplite"));
            }
        }
        Ok(())
    }

    /// Whether there can be packets that have all of what belongs to IP.
    fn check_family(&self) -> Result<(), Invalid> {
        let of = |prefix: IpPrefix| if prefix.address().is_ipv4() { IPV4 } else { IPV6 };
        let names = |number| if number == IPV4 { "IPv4" } else { "IPv6" };
        if let (Some(src), Some(dst)) = (self.src, self.dst)
            && of(src) != of(dst)
        {
            let message = format!("`src` is {}, `dst` is {}", names(of(src)), names(of(dst)));
            return Err(Invalid::at("dst", message).help("both have to be of the same kind"));
        }
        let prefixes = [self.src, self.dst].into_iter().flatten();
        self.check_protocol(
            self.ethertype.map(EtherType::get).or_else(|| prefixes.map(of).next()),
        )?;
        let Some(ethertype) = self.ethertype else { return Ok(()) };
        for (key, prefix) in [("src", self.src), ("dst", self.dst)] {
            if let Some(prefix) = prefix.filter(|prefix| of(*prefix) != ethertype.get()) {
                let message = format!(
                    "`ethertype` is {ethertype}, and `{key}` an address of {}",
                    names(of(prefix))
                );
                return Err(Invalid::at("ethertype", message).help("leave `ethertype` out"));
            }
        }
        let of_ip = [
            ("proto", self.proto.is_some()),
            ("sport", self.sport.is_some()),
            ("dport", self.dport.is_some()),
            ("dscp", self.dscp.is_some()),
        ];
        let of_ip = of_ip.iter().find(|(_, named)| *named);
        if let Some((key, _)) = of_ip.filter(|_| ![IPV4, IPV6].contains(&ethertype.get())) {
            let message = format!("packets of EtherType {ethertype} have no `{key}`");
            return Err(Invalid::at("ethertype", message).help("allowed here: ipv4, ipv6"));
        }
        Ok(())
    }

    /// Whether packets of this EtherType can be of the protocol.
    fn check_protocol(&self, ethertype: Option<u16>) -> Result<(), Invalid> {
        /// ICMP and IGMP; IPv6 has ICMPv6 for both.
        const OF_IPV4: [u8; 2] = [1, 2];
        const OF_IPV6: u8 = 58;
        /// Routing, fragment, authentication, destination options, mobility.
        const EXTENSIONS: [u8; 5] = [43, 44, 51, 60, 135];
        let Some(protocol) = self.proto else { return Ok(()) };
        let (problem, help) = match (ethertype, protocol.get()) {
            (Some(IPV6), number) if OF_IPV4.contains(&number) => {
                ("is IPv4's, and the rule means IPv6", "use `icmpv6`")
            }
            (Some(IPV4), OF_IPV6) => ("is IPv6's, and the rule means IPv4", "use `icmp`"),
            (Some(IPV6), number) if EXTENSIONS.contains(&number) => (
                "is an extension header of IPv6",
                "name the protocol behind the extension headers: they are passed over",
            ),
            _ => return Ok(()),
        };
        Err(Invalid::at("proto", format!("protocol {protocol} {problem}")).help(help))
    }

    /// What it says of packets, for people: `port=wan src=10.0.0.0/8`; `any` if nothing.
    #[must_use]
    pub fn conditions(&self) -> String {
        let mut text = Vec::new();
        let mut add = |key: &str, value: Option<String>| {
            text.extend(value.map(|value| format!("{key}={value}")));
        };
        fn shown<T: ToString>(value: Option<&T>) -> Option<String> {
            value.map(ToString::to_string)
        }
        add("port", shown(self.port.as_ref()));
        add("vlan", shown(self.vlan.as_ref()));
        add("ethertype", shown(self.ethertype.as_ref()));
        add("src-mac", shown(self.src_mac.as_ref()));
        add("dst-mac", shown(self.dst_mac.as_ref()));
        add("src", shown(self.src.as_ref()));
        add("dst", shown(self.dst.as_ref()));
        add("proto", shown(self.proto.as_ref()));
        add("sport", shown(self.sport.as_ref()));
        add("dport", shown(self.dport.as_ref()));
        add("dscp", shown(self.dscp.as_ref()));
        if text.is_empty() { "any".to_owned() } else { text.join(" ") }
    }

    /// Its name, or its place (counted from 1), for messages.
    #[must_use]
    pub fn label(&self, index: usize) -> String {
        match &self.name {
            Some(name) => format!("rule {} ({name})", index + 1),
            None => format!("rule {}", index + 1),
        }
    }
}

impl Check for Steering {
    fn check(&self) -> Result<(), Invalid> {
        self.rules.iter().enumerate().try_for_each(|(index, rule)| {
            rule.check().map_err(|invalid| invalid.within_array("rule", index))
        })
    }
}
