//! The alerting rules that come with Weir: of metrics and labels that there are. One that is
//! mistyped never fires, and nobody notices.

use std::collections::{BTreeMap, BTreeSet};

use yaml_rust2::{Yaml, YamlLoader};

use crate::common::Host;

const RULES: &str = include_str!("../../../../docs/reference/alerts.yml");
const DROPS: &str = include_str!("../../../../docs/reference/drops.md");
/// What Prometheus gives every series.
const ITS_OWN: [&str; 2] = ["instance", "job"];

/// What an expression asks for.
#[derive(Debug, Default)]
struct Asked {
    /// Metrics, with the labels that are compared.
    metrics: BTreeMap<String, BTreeSet<String>>,
    /// Labels by which is added up.
    by: Option<BTreeSet<String>>,
    /// Reasons for drops.
    reasons: Vec<String>,
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn listed(text: &str, end: char) -> BTreeSet<String> {
    let list = text.split(end).next().unwrap().split(',');
    list.map(|item| item.trim().split(|c| !is_of_name(c)).next().unwrap().to_owned()).collect()
}

fn asked(expression: &str) -> Asked {
    let mut asked = Asked::default();
    let mut parts = expression.split('"');
    let mut bare = parts.next().unwrap().to_owned();
    while let (Some(value), Some(rest)) = (parts.next(), parts.next()) {
        if bare.trim_end_matches(['=', '~', '!']).ends_with("reason") {
            asked.reasons.extend(value.split('|').map(str::to_owned));
        }
        bare.push_str(rest);
    }
    for (place, _) in bare.match_indices("weir_").chain(bare.match_indices("process_")) {
        let name: String = bare[place..].chars().take_while(|c| is_of_name(*c)).collect();
        let labels = match bare[place + name.len()..].strip_prefix('{') {
            Some(matchers) => listed(matchers, '}'),
            None => BTreeSet::new(),
        };
        asked.metrics.entry(name).or_default().extend(labels);
    }
    for (_, list) in bare.match_indices("by (").map(|(place, by)| (by, &bare[place + by.len()..])) {
        asked.by.get_or_insert_default().extend(listed(list, ')'));
    }
    asked
}

/// The labels of each metric, as they are written down.
fn written(metrics: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut written: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let series = line.rsplit_once(' ').unwrap().0;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        // Values have no quotation marks here: each second part is one.
        let labels = labels.split('"').step_by(2).map(|label| label.trim_matches([',', '=', '}']));
        written.entry(name).or_default().extend(labels.filter(|label| !label.is_empty()));
    }
    written
}

#[test]
fn what_the_page_calls_worth_an_alert_has_one() {
    let page = include_str!("../../../../docs/reference/metrics.md");
    let worth = page.lines().filter(|line| line.to_lowercase().contains("alert on "));
    let names: Vec<_> = worth.map(|line| line.split('`').nth(1).unwrap()).collect();
    assert!(names.len() > 4, "{names:?}");
    for name in names {
        assert!(RULES.contains(name), "{name}");
    }
}

#[tokio::test]
async fn rules_are_about_what_there_is() {
    let host = Host::new();
    host.with_chains(&["a"]).await;
    let metrics = host.ask("GET", "/metrics", None).await.text;
    let written = written(&metrics);
    let document = &YamlLoader::load_from_str(RULES).unwrap()[0];
    let groups = document["groups"].as_vec().unwrap().iter();
    let rules: Vec<&Yaml> = groups.flat_map(|group| group["rules"].as_vec().unwrap()).collect();
    assert!(rules.len() > 20, "{}", rules.len());
    let mut names = BTreeSet::new();
    for rule in rules {
        let name = rule["alert"].as_str().unwrap();
        assert!(name.starts_with("Weir") && names.insert(name), "{name}");
        assert!(rule["for"].as_str().is_some(), "{name}: for");
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(["critical", "warning"].contains(&severity), "{name}: {severity}");
        let asked = asked(rule["expr"].as_str().unwrap());
        assert!(!asked.metrics.is_empty() || name == "WeirDown", "{name}: {asked:?}");
        for (metric, compared) in &asked.metrics {
            let there = written.get(metric.as_str());
            let there = there.unwrap_or_else(|| panic!("{name}: there is no {metric}"));
            let has = |label: &str| there.contains(label) || ITS_OWN.contains(&label);
            for label in compared.iter().chain(asked.by.iter().flatten()) {
                assert!(has(label), "{name}: {metric} has no {label}, but {there:?}");
            }
            for key in ["summary", "description"] {
                let told = rule["annotations"][key].as_str().unwrap();
                for label in told.split("$labels.").skip(1) {
                    let label = label.split(|c| !is_of_name(c)).next().unwrap();
                    let stays = asked.by.as_ref().is_none_or(|by| by.contains(label));
                    assert!(has(label) && stays, "{name}: {key}: {label}");
                }
            }
        }
        for reason in &asked.reasons {
            let alone = reason.strip_prefix("rx-").unwrap_or(reason);
            assert!(DROPS.contains(&format!("`{alone}`")), "{name}: {reason}");
        }
    }
}
