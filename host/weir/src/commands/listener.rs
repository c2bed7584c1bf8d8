//! Listeners and chains of the message plane, as `weir status` shows them.

use weir_control::engine::{Bucket, ChainStatus, EngineStatus, ListenerStatus, UpstreamStatus};

use super::{counts, or_dash};
use crate::render;

/// Listeners and their upstreams.
pub(super) fn table(engine: &EngineStatus) -> String {
    let chain_of = |listener: &ListenerStatus| {
        let name = listener.chain.as_ref()?;
        let same = |chain: &ChainStatus| chain.name == *name && chain.tenant == listener.tenant;
        let deployed = engine.chains.iter().any(same);
        Some(if deployed { name.to_string() } else { format!("{name} (not deployed)") })
    };
    let rows = engine.listeners.iter().flat_map(|listener| {
        let upstreams = listener.upstreams.iter().map(|upstream| {
            let up = upstream.members.iter().filter(|member| member.healthy).count();
            let health = match (upstream.healthy, upstream.members.len()) {
                (true, 0 | 1) => "healthy".to_owned(),
                (true, all) => format!("{up} of {all} healthy"),
                (false, _) => "down".to_owned(),
            };
            [
                format!("{} upstream", listener.name),
                upstream.address.clone(),
                health,
                upstream.open.to_string(),
                upstream.requests.to_string(),
                upstream.active.to_string(),
                "-".to_owned(),
                quantile(&upstream.latency, 0.5),
                quantile(&upstream.latency, 0.99),
                failures(upstream),
            ]
        });
        let whole = [
            listener.name.to_string(),
            listener.addresses.join(" "),
            or_dash(chain_of(listener)),
            listener.open.to_string(),
            listener.requests.to_string(),
            listener.active.to_string(),
            listener.responses.get("5xx").copied().unwrap_or(0).to_string(),
            quantile(&listener.latency, 0.5),
            quantile(&listener.latency, 0.99),
            counts(&listener.failures),
        ];
        std::iter::once(whole).chain(upstreams)
    });
    let header = [
        "listener",
        "address",
        "chain",
        "#open",
        "#requests",
        "#active",
        "#5xx",
        "#p50",
        "#p99",
        "failures",
    ];
    render::table(header, rows)
}

/// How often what went wrong with an upstream, and what is wrong now.
fn failures(upstream: &UpstreamStatus) -> String {
    let counted = counts(&upstream.failures);
    match &upstream.problem {
        Some(problem) if upstream.failures.is_empty() => problem.clone(),
        Some(problem) => format!("{counted} ({problem})"),
        None => counted,
    }
}

/// Functions of a chain, with the times that they take.
pub(super) fn functions(rows: impl Iterator<Item = [String; 8]>) -> String {
    let header = ["function", "version", "state", "#events", "actions", "#faults", "#p50", "#p99"];
    render::table(header, rows)
}

/// The time that this part of all lies below.
pub(super) fn quantile(buckets: &[Bucket], part: f64) -> String {
    or_dash(quantile_ns(buckets, part).map(time))
}

/// The same in nanoseconds; none if there is none.
pub(super) fn quantile_ns(buckets: &[Bucket], part: f64) -> Option<u64> {
    let all: u64 = buckets.iter().map(|bucket| bucket.count).sum();
    let wanted = (all as f64 * part).ceil() as u64;
    let mut seen = 0;
    let found = buckets.iter().find(|bucket| {
        seen += bucket.count;
        seen >= wanted.max(1)
    });
    found.map(|bucket| bucket.below_ns)
}

/// A time, for people.
pub(super) fn time(nanoseconds: u64) -> String {
    match nanoseconds {
        0..10_000_000 => format!("{:.1} us", nanoseconds as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.1} ms", nanoseconds as f64 / 1e6),
        u64::MAX => "long".to_owned(),
        _ => format!("{:.1} s", nanoseconds as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_all_times_lies_below_what_is_told() {
        let buckets = [(1_000, 50), (2_000_000, 49), (u64::MAX, 1)]
            .map(|(below_ns, count)| Bucket { below_ns, count });
        assert_eq!(quantile(&buckets, 0.5), "1.0 us");
        assert_eq!(quantile(&buckets, 0.99), "2000.0 us");
        assert_eq!(quantile(&buckets, 1.0), "long");
        assert_eq!(quantile(&[], 0.5), "-");
    }
}
