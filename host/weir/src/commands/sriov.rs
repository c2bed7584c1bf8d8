//! `weir sriov`: physical and virtual functions of this machine's network devices. Needs no host.

use anyhow::{Result, bail};
use serde::Serialize;
use weir_engine::nics;
use weir_sriov::{
    BindTo, Bound, LinkState, Live, NewSettings, Outcome, PhysicalFunction, UndoneChange,
    Unwritten, VirtualFunction,
};

use super::{or_dash, run};
use crate::cli::{OnOff, SriovBinding, SriovCommand, SriovLink, SriovSet};
use crate::render::{self, Output};

pub(super) fn run(command: SriovCommand, output: Output) -> Result<()> {
    let kernel = Live::default();
    match command {
        SriovCommand::List { pf: None } => {
            output.result(&weir_sriov::list(&kernel), |all| text(all))
        }
        SriovCommand::List { pf: Some(pf) } => {
            let pf = weir_sriov::find(&kernel, &pf)?;
            output.result(&[pf], |all| text(all))
        }
        SriovCommand::Create { pf, number } => {
            let found = weir_sriov::find(&kernel, &pf)?;
            weir_sriov::create(&kernel, &found, number)?;
            output.outcome(&[weir_sriov::find(&kernel, &pf)?], |all| text(all))
        }
        SriovCommand::Remove { pf } => {
            let found = weir_sriov::find(&kernel, &pf)?;
            weir_sriov::remove(&kernel, &found)?;
            output.done(&format!(
                "{} has no virtual functions any more ({} before)",
                found.name(),
                found.numvfs
            ))
        }
        SriovCommand::Set(args) => {
            let found = weir_sriov::find(&kernel, &args.pf)?;
            weir_sriov::set(&kernel, &found, args.vf, &settings(&args))?;
            let now = weir_sriov::find(&kernel, &args.pf)?;
            let vf = now.vf(args.vf)?;
            if args.mac.is_some() && vf.interface.is_some() && !output.quiet {
                eprintln!(
                    "note: its driver may use the MAC address only when it gets the function anew: `weir sriov bind {} {} kernel \
                     --again`",
                    args.pf, args.vf
                );
            }
            output.outcome(vf, |vf| vf_table([vf]))
        }
        SriovCommand::Bind { pf, vf, to, no_iommu, again } => {
            if no_iommu && to == SriovBinding::Kernel {
                bail!("--no-iommu is for vfio-pci");
            }
            let found = weir_sriov::find(&kernel, &pf)?;
            let to = match to {
                SriovBinding::VfioPci => BindTo::Vfio { no_iommu },
                SriovBinding::Kernel => BindTo::Kernel,
            };
            let bound = weir_sriov::bind(&kernel, &found, vf, to, again)?;
            for note in bound.notes.iter().filter(|_| !output.quiet) {
                eprintln!("note: {note}");
            }
            output.outcome(&bound, bound_text)
        }
        SriovCommand::Restore { config } => restore(config, output),
    }
}

fn settings(args: &SriovSet) -> NewSettings {
    NewSettings {
        mac: args.mac,
        vlan: args.vlan,
        qos: args.qos,
        trust: args.trust.map(OnOff::is_on),
        spoof_check: args.spoof_check.map(OnOff::is_on),
        min_rate: args.min_rate,
        max_rate: args.max_rate,
        link: args.link.map(|link| match link {
            SriovLink::Auto => LinkState::Auto,
            SriovLink::Up => LinkState::Up,
            SriovLink::Down => LinkState::Down,
        }),
    }
}

/// What became of the journal's changes.
#[derive(Serialize)]
struct Restored {
    restored: Vec<String>,
    not_restored: Vec<String>,
}

fn restore(config: Option<std::path::PathBuf>, output: Output) -> Result<()> {
    let undone = nics::restore(&run::store_of(config)?).inspect_err(|error| {
        let unwritten = error.downcast_ref::<Unwritten>();
        for text in unwritten.iter().flat_map(|u| &u.undone).filter_map(UndoneChange::text) {
            eprintln!("{text}");
        }
    })?;
    let texts = |restored: bool| {
        let of = undone.iter().filter(|u| (u.outcome == Outcome::Restored) == restored);
        of.filter_map(UndoneChange::text).collect()
    };
    let result = Restored { restored: texts(true), not_restored: texts(false) };
    output.outcome(&result, |result| {
        let lines: Vec<_> = result.restored.iter().chain(&result.not_restored).cloned().collect();
        if lines.is_empty() { "there is nothing to restore".to_owned() } else { lines.join("\n") }
    })?;
    let failed = undone.iter().filter(|u| matches!(u.outcome, Outcome::Failed { .. })).count();
    if failed > 0 {
        bail!("{failed} of {} changes could not be undone", undone.len());
    }
    Ok(())
}

fn bound_text(bound: &Bound) -> String {
    render::facts(&[
        ("address", bound.address.to_string()),
        ("driver", or_dash(bound.driver.as_ref())),
        ("interface", or_dash(bound.interface.as_ref())),
        ("node", or_dash(bound.node.as_ref())),
    ])
}

fn text(all: &[PhysicalFunction]) -> String {
    if all.is_empty() {
        return "this machine has no SR-IOV devices\n".to_owned();
    }
    let rows = all.iter().map(|pf| {
        [
            or_dash(pf.interface.as_ref()),
            pf.address.to_string(),
            or_dash(pf.driver.as_ref()),
            or_dash(pf.numa_node),
            pf.numvfs.to_string(),
            pf.totalvfs.to_string(),
        ]
    });
    let mut text = render::table(["pf", "address", "driver", "numa", "#numvfs", "#totalvfs"], rows);
    for pf in all.iter().filter(|pf| !pf.vfs.is_empty()) {
        text.push_str(&format!("\nvirtual functions of {}:\n", pf.name()));
        text.push_str(&vf_table(&pf.vfs));
    }
    text
}

fn vf_table<'a>(vfs: impl IntoIterator<Item = &'a VirtualFunction>) -> String {
    let switch = |on: Option<bool>| or_dash(on.map(|on| if on { "on" } else { "off" }));
    let rows = vfs.into_iter().map(|vf| {
        let set = vf.settings.as_ref();
        [
            vf.index.to_string(),
            vf.address.to_string(),
            or_dash(vf.driver.as_ref()),
            or_dash(vf.interface.as_ref()),
            or_dash(vf.iommu_group),
            or_dash(set.and_then(|set| set.mac)),
            or_dash(set.map(|set| set.vlan).filter(|vlan| *vlan > 0)),
            or_dash(set.filter(|set| set.vlan > 0).map(|set| set.qos)),
            switch(set.and_then(|set| set.trust)),
            switch(set.and_then(|set| set.spoof_check)),
            or_dash(set.and_then(|set| set.link)),
            or_dash(set.map(|set| set.min_rate).filter(|rate| *rate > 0)),
            or_dash(set.map(|set| set.max_rate).filter(|rate| *rate > 0)),
            if vf.users.is_empty() { "-".to_owned() } else { vf.users.join("; ") },
        ]
    });
    let header = [
        "#vf",
        "address",
        "driver",
        "interface",
        "#group",
        "mac",
        "#vlan",
        "#qos",
        "trust",
        "spoof-check",
        "link",
        "#min-rate",
        "#max-rate",
        "used by",
    ];
    render::table(header, rows)
}
