//! Functions created, set, bound and left as they were found, on a model of the kernel. The same is
//! done to an emulated Intel 82576 in `tests/tests/sriov.rs`.

mod model;

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use model::{Crash, Face, Model, PF, PF_INTERFACE, TOTAL, vf_address};
use proptest::prelude::*;
use weir_sriov::{
    BindTo, InterfaceWish, Journal, Kernel, LinkState, MacAddress, NewSettings, NicWish, Outcome,
    Purpose, SriovError, VfName, VfWish, Wish, apply, bind, create, find, lend_mac, list, plan,
    remove, return_mac, set, undo,
};

const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 7]);

fn journal(model: &Model) -> Journal {
    Journal::open(&model.directory.path().join("journal"), model).unwrap()
}

fn wish(vfs: Option<u16>, functions: Vec<VfWish>) -> Wish {
    let nics = vec![NicWish { pf: PF_INTERFACE.to_owned(), vfs, functions }];
    Wish { nics, interfaces: Vec::new() }
}

fn vf(index: u16, purpose: Option<Purpose>) -> VfWish {
    VfWish { index, settings: NewSettings::default(), purpose }
}

#[test]
fn functions_are_created_set_bound_and_removed() {
    let model = Model::new();
    let before = model.snapshot();
    let pf = || find(&model, PF_INTERFACE).unwrap();
    assert_eq!(
        (list(&model).len(), pf().numvfs, pf().totalvfs, pf().numa_node),
        (1, 0, TOTAL, None)
    );
    assert_eq!(find(&model, "01:00.0").unwrap(), pf());
    create(&model, &pf(), 2).unwrap();
    create(&model, &pf(), 2).unwrap();
    let new = NewSettings {
        mac: Some(MAC),
        vlan: Some(100),
        qos: Some(3),
        max_rate: Some(50),
        ..NewSettings::default()
    };
    set(&model, &pf(), 1, &new).unwrap();
    set(
        &model,
        &pf(),
        1,
        &NewSettings { vlan: Some(200), min_rate: Some(5), ..NewSettings::default() },
    )
    .unwrap();
    let now = pf().vfs[1].settings.clone().unwrap();
    assert_eq!(
        (now.mac, now.vlan, now.qos, now.min_rate, now.max_rate),
        (Some(MAC), 200, 3, 5, 50)
    );
    let bound = bind(&model, &pf(), 1, BindTo::Vfio { no_iommu: false }, false).unwrap();
    assert_eq!(
        (bound.driver.as_deref(), bound.node.as_deref()),
        (Some("vfio-pci"), Some("/dev/vfio/11"))
    );
    assert_eq!(pf().vfs[1].interface, None);
    let bound = bind(&model, &pf(), 1, BindTo::Kernel, false).unwrap();
    assert_eq!(
        (bound.driver.as_deref(), bound.interface.as_deref()),
        (Some("igbvf"), Some("ens1f0v1"))
    );
    remove(&model, &pf()).unwrap();
    assert_eq!(model.snapshot(), before);
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, SriovError>, parts: &[&str]) {
    let error = result.unwrap_err().to_string();
    for part in parts {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn refusals_say_what_to_do() {
    let model = Model::new();
    let pf = || find(&model, PF).unwrap();
    let vfio = BindTo::Vfio { no_iommu: false };
    refused(find(&model, "eth9"), &["no interface or PCI device eth9", "ens1f0"]);
    refused(find(&model, "0000:09:00.0"), &["no PCI device 0000:09:00.0"]);
    refused(create(&model, &pf(), 8), &["cannot have 8", "1 to 7 (sriov_totalvfs)"]);
    refused(
        bind(&model, &pf(), 0, vfio, false),
        &["no virtual functions", "weir sriov create ens1f0 N"],
    );
    create(&model, &pf(), 2).unwrap();
    refused(
        create(&model, &pf(), 3),
        &["has 2 virtual functions already", "weir sriov remove ens1f0"],
    );
    refused(find(&model, &vf_address(0)), &["is a virtual function itself", PF]);
    refused(
        set(&model, &pf(), 2, &NewSettings::default()),
        &["no virtual function 2, only 0 to 1"],
    );
    let new = |f: fn(&mut NewSettings)| {
        let mut new = NewSettings::default();
        f(&mut new);
        new
    };
    refused(
        set(&model, &pf(), 0, &new(|n| n.link = Some(LinkState::Up))),
        &["link up", "driver cannot do that"],
    );
    refused(set(&model, &pf(), 0, &new(|n| n.qos = Some(1))), &["a qos needs a VLAN"]);
    refused(
        set(&model, &pf(), 0, &new(|n| n.mac = Some(MacAddress([1, 0, 0, 0, 0, 0])))),
        &["is a group's"],
    );
    refused(
        set(
            &model,
            &pf(),
            0,
            &NewSettings { min_rate: Some(2), max_rate: Some(1), ..NewSettings::default() },
        ),
        &["is more than the max-rate"],
    );
    // In use: an address on the interface.
    let face = Face {
        up: true,
        addresses: vec![("192.0.2.1".parse().unwrap(), 24)],
        mac: MacAddress::default(),
    };
    model.state.lock().unwrap().faces.insert("ens1f0v0".to_owned(), face);
    refused(
        remove(&model, &pf()),
        &["virtual function 0 of ens1f0", "ens1f0v0 is up with 192.0.2.1/24"],
    );
    refused(bind(&model, &pf(), 0, vfio, false), &["is in use"]);
    model.state.lock().unwrap().faces.insert("ens1f0v0".to_owned(), Face::default());
    // In use: another interface lies on it, as a VLAN does without being its master.
    let upper = model.sys().join("class/net/ens1f0v0/upper_web.7");
    fs::create_dir(&upper).unwrap();
    refused(remove(&model, &pf()), &["web.7 lies on the interface ens1f0v0"]);
    refused(bind(&model, &pf(), 0, vfio, false), &["is in use", "web.7"]);
    fs::remove_dir(upper).unwrap();
    // In use: a process has it by vfio.
    bind(&model, &pf(), 0, vfio, false).unwrap();
    let process = model.proc().join("77");
    fs::create_dir_all(process.join("fd")).unwrap();
    fs::write(process.join("comm"), "dpdk-testpmd\n").unwrap();
    symlink("/dev/vfio/10", process.join("fd/9")).unwrap();
    refused(remove(&model, &pf()), &["process 77 (dpdk-testpmd) has /dev/vfio/10 open"]);
    refused(bind(&model, &pf(), 0, BindTo::Kernel, false), &["process 77"]);
    fs::remove_dir_all(process).unwrap();
    bind(&model, &pf(), 0, BindTo::Kernel, false).unwrap();
    // No IOMMU.
    let group = model.device(&vf_address(1)).join("iommu_group");
    let kept = fs::read_link(&group).unwrap();
    fs::remove_file(&group).unwrap();
    refused(
        bind(&model, &pf(), 1, vfio, false),
        &["IOMMU is off", "intel_iommu=on iommu=pt", "--no-iommu"],
    );
    refused(
        bind(&model, &pf(), 1, BindTo::Vfio { no_iommu: true }, false),
        &["enable_unsafe_noiommu_mode=1"],
    );
    symlink(kept, group).unwrap();
    fs::remove_dir(model.sys().join("bus/pci/drivers/vfio-pci")).unwrap();
    refused(bind(&model, &pf(), 1, vfio, false), &["modprobe vfio-pci"]);
    // No SR-IOV.
    remove(&model, &pf()).unwrap();
    fs::remove_file(model.device(PF).join("sriov_totalvfs")).unwrap();
    refused(find(&model, PF_INTERFACE), &["ens1f0 is not an SR-IOV device", "no SR-IOV devices"]);
}

#[test]
fn what_would_be_done_is_told_and_not_done() {
    let model = Model::new();
    let before = model.snapshot();
    let mut wish = wish(None, vec![vf(0, Some(Purpose::Vfio)), vf(1, Some(Purpose::Kernel))]);
    wish.nics[0].functions[0].settings.mac = Some(MAC);
    let of = VfName { pf: PF_INTERFACE.to_owned(), index: 1 };
    wish.interfaces.push(InterfaceWish::OfVf(of, vec![("192.0.2.1".parse().unwrap(), 24)]));
    let told = plan(&model, &wish).unwrap();
    assert_eq!(model.snapshot(), before);
    let mut journal = journal(&model);
    let done = apply(&model, &wish, &mut journal).unwrap();
    assert_eq!(done.steps, told);
    assert_eq!(told[0], "create 2 virtual functions on 0000:01:00.0");
    assert!(told.contains(&"bind 0000:01:10.0 to vfio-pci".to_owned()), "{told:?}");
    assert!(
        told.contains(&"give the interface of 0000:01:10.2 the address 192.0.2.1/24".to_owned()),
        "{told:?}"
    );
    assert_eq!(done.functions[1].interface.as_deref(), Some("ens1f0v1"));
    assert_eq!(model.driver(&vf_address(0)).as_deref(), Some("vfio-pci"));
    // What is so already needs nothing.
    assert_eq!(apply(&model, &wish, &mut journal).unwrap().steps, Vec::<String>::new());
    assert!(
        undo(&model, &mut journal)
            .unwrap()
            .iter()
            .all(|u| !matches!(u.outcome, Outcome::Failed { .. }))
    );
    assert_eq!(model.snapshot(), before);
    assert_eq!(undo(&model, &mut journal).unwrap(), []);
}

#[test]
fn what_others_changed_or_use_stays() {
    let model = Model::new();
    create(&model, &find(&model, PF).unwrap(), 2).unwrap();
    let mut wish = wish(Some(2), vec![vf(0, None), vf(1, Some(Purpose::Vfio))]);
    wish.nics[0].functions[0].settings =
        NewSettings { mac: Some(MAC), vlan: Some(7), ..NewSettings::default() };
    let mut journal = journal(&model);
    apply(&model, &wish, &mut journal).unwrap();
    let other = NewSettings { vlan: Some(8), ..NewSettings::default() };
    set(&model, &find(&model, PF).unwrap(), 0, &other).unwrap();
    let process = model.proc().join("77");
    fs::create_dir_all(process.join("fd")).unwrap();
    symlink("/dev/vfio/11", process.join("fd/9")).unwrap();
    let undone = undo(&model, &mut journal).unwrap();
    let texts: Vec<String> = undone.iter().filter_map(weir_sriov::UndoneChange::text).collect();
    assert!(texts[0].contains("0000:01:10.2 is in use: process 77"), "{texts:?}");
    assert!(texts[1].contains("somebody else changed it meanwhile"), "{texts:?}");
    assert!(texts[2].starts_with("restored: set mac 00:00"), "{texts:?}");
    assert_eq!(model.state.lock().unwrap().vfs[&0].vlan, 8);
    // What was in use is tried again; what is somebody else's is not.
    fs::remove_dir_all(process).unwrap();
    let undone = undo(&model, &mut journal).unwrap();
    assert_eq!(undone.iter().map(|u| &u.outcome).collect::<Vec<_>>(), [&Outcome::Restored]);
    assert_eq!(model.driver(&vf_address(1)).as_deref(), Some("igbvf"));
}

/// A function of which only a VLAN is said is for somebody else, who may not want the kernel's
/// driver.
#[test]
fn a_function_that_nobody_here_has_needs_no_driver() {
    let model = Model::new();
    fs::remove_dir(model.sys().join("bus/pci/drivers/igbvf")).unwrap();
    let mut wish = wish(Some(2), vec![vf(0, Some(Purpose::Vfio)), vf(1, None)]);
    wish.nics[0].functions[1].settings.vlan = Some(10);
    apply(&model, &wish, &mut journal(&model)).unwrap();
    assert_eq!(model.driver(&vf_address(0)).as_deref(), Some("vfio-pci"));
    assert_eq!(model.driver(&vf_address(1)), None);
    assert_eq!(model.state.lock().unwrap().vfs[&1].vlan, 10);
}

/// What a full disk has torn off is no line, and everything can be undone on it.
#[test]
fn a_full_disk_is_not_in_the_way_of_undoing() {
    const CHILD: &str = "WEIR_TEST_FULL_DISK";
    if std::env::var_os(CHILD).is_none() {
        // The largest size of a file does for a full disk, in a process that does not mind the
        // signal.
        let script = "trap '' XFSZ; exec \"$0\" --exact a_full_disk_is_not_in_the_way_of_undoing";
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).arg(std::env::current_exe().unwrap()).env(CHILD, "1");
        let output = shell.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let most = |bytes: &str| {
        let process = std::process::id().to_string();
        let limit = format!("--fsize={bytes}:");
        let mut prlimit = Command::new("prlimit");
        assert!(prlimit.args(["--pid", &process, &limit]).status().unwrap().success());
    };
    let model = Model::new();
    let before = model.snapshot();
    let path = model.directory.path().join("journal");
    let length = || fs::metadata(&path).unwrap().len();
    let mut journal = journal(&model);
    let functions = vec![vf(0, Some(Purpose::Vfio)), vf(1, Some(Purpose::Kernel))];
    apply(&model, &wish(None, functions), &mut journal).unwrap();
    let (_, change) = journal.changes().next().unwrap();
    let change = change.clone();
    let whole = length();
    most(&(whole + 20).to_string());
    journal.push(change.clone()).unwrap_err();
    assert_eq!(length(), whole + 20, "a part of it is there");
    most("unlimited");
    journal.push(change).unwrap();
    let changes = journal.changes().count();
    drop(journal);
    let mut journal = Journal::open(&path, &model).unwrap();
    assert_eq!(journal.changes().count(), changes);
    most(&length().to_string());
    // What could not be undone is told, whatever becomes of the journal.
    let process = model.proc().join("77");
    fs::create_dir_all(process.join("fd")).unwrap();
    symlink("/dev/vfio/10", process.join("fd/9")).unwrap();
    let unwritten = undo(&model, &mut journal).unwrap_err();
    let texts: Vec<String> =
        unwritten.undone.iter().filter_map(weir_sriov::UndoneChange::text).collect();
    assert!(texts.iter().any(|text| text.contains("is in use: process 77")), "{texts:?}");
    // It is told for as long as the file says that what was undone is not.
    let left = journal.changes().count();
    assert_eq!(undo(&model, &mut journal).unwrap_err().undone.len(), left);
    most("unlimited");
    assert_eq!(undo(&model, &mut journal).unwrap().len(), left);
    drop(journal);
    let mut journal = Journal::open(&path, &model).unwrap();
    assert_eq!(journal.changes().count(), left);
    most(&length().to_string());
    fs::remove_dir_all(process).unwrap();
    undo(&model, &mut journal).unwrap();
    assert_eq!(model.snapshot(), before);
    assert!(!Journal::is_left_at(&path));
}

fn settings() -> impl Strategy<Value = NewSettings> {
    let rates = proptest::option::of((0..5u32, 5..10u32));
    (any::<Option<bool>>(), proptest::option::of(0..100u16), any::<Option<bool>>(), rates).prop_map(
        |(mac, vlan, trust, rates)| NewSettings {
            mac: mac.map(|mac| if mac { MAC } else { MacAddress([2, 0, 0, 0, 0, 9]) }),
            vlan,
            trust,
            spoof_check: trust,
            min_rate: rates.map(|rates| rates.0),
            max_rate: rates.map(|rates| rates.1),
            ..NewSettings::default()
        },
    )
}

fn purpose() -> impl Strategy<Value = Option<Purpose>> {
    prop_oneof![Just(None), Just(Some(Purpose::Vfio)), Just(Some(Purpose::Kernel))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// However the machine was, whatever is wanted, and wherever the host crashes: it is left as it
    /// was found.
    #[test]
    fn any_wish_is_undone(
        there in proptest::option::of((settings(), purpose())),
        wanted in proptest::collection::vec((settings(), purpose(), any::<bool>()), 1..4),
        autoprobe in any::<bool>(),
        up in any::<bool>(),
        crash in proptest::option::of((0..24u32, any::<bool>())),
    ) {
        let model = Model::new();
        if let Some((settings, purpose)) = there {
            create(&model, &find(&model, PF).unwrap(), 3).unwrap();
            set(&model, &find(&model, PF).unwrap(), 0, &settings).unwrap();
            let to = if purpose == Some(Purpose::Vfio) { BindTo::Vfio { no_iommu: false } } else { BindTo::Kernel };
            // Again, so that its interface has the address.
            bind(&model, &find(&model, PF).unwrap(), 0, to, true).unwrap();
        }
        if let Some(face) = model.state.lock().unwrap().faces.get_mut("ens1f0v0") {
            face.up = up;
        }
        if !autoprobe {
            fs::write(model.device(PF).join("sriov_drivers_autoprobe"), "0\n").unwrap();
        }
        let before = model.snapshot();
        let functions = wanted.iter().enumerate().map(|(index, (settings, purpose, _))| VfWish {
            index: index as u16,
            settings: *settings,
            purpose: *purpose,
        });
        let mut wish = wish(None, functions.collect());
        for (index, (_, purpose, addressed)) in wanted.iter().enumerate() {
            if *purpose == Some(Purpose::Kernel) {
                let name = VfName { pf: PF_INTERFACE.to_owned(), index: index as u16 };
                let address = addressed.then(|| ("192.0.2.1".parse().unwrap(), 24));
                wish.interfaces.push(InterfaceWish::OfVf(name, address.into_iter().collect()));
            }
        }
        *model.crash.lock().unwrap() = crash.map(|(after, acts)| Crash { after, acts });
        let applied = apply(&model, &wish, &mut journal(&model));
        if crash.is_none() && autoprobe {
            prop_assert!(applied.is_ok(), "{:?}", applied);
        }
        *model.crash.lock().unwrap() = None;
        let undone = undo(&model, &mut journal(&model)).unwrap();
        let whole = undone.iter().all(|u| matches!(u.outcome, Outcome::Restored | Outcome::Nothing));
        prop_assert!(whole, "{:?}", undone);
        prop_assert_eq!(model.snapshot(), before);
        prop_assert!(!Journal::is_left_at(&model.directory.path().join("journal")));
    }
}

/// An address of a while is taken back, after a crash too, and what somebody else set stays.
#[test]
fn an_address_is_lent_and_taken_back() {
    let model = Model::new();
    let name = |index| VfName { pf: PF_INTERFACE.to_owned(), index };
    let mac = |index: usize| {
        find(&model, PF_INTERFACE).unwrap().vfs[index].settings.clone().unwrap().mac.unwrap()
    };
    let other = MacAddress([2, 0, 0, 0, 0, 8]);
    let given = NewSettings { mac: Some(MacAddress([2, 0, 0, 0, 0, 9])), ..NewSettings::default() };
    let mut journal = journal(&model);
    let functions =
        vec![vf(0, None), vf(1, None), VfWish { index: 2, settings: given, purpose: None }];
    apply(&model, &wish(Some(3), functions), &mut journal).unwrap();
    let changes = journal.changes().count();
    let own = mac(1);
    let lent = lend_mac(&model, &name(1), MAC, &mut journal).unwrap();
    assert_eq!(mac(1), MAC);
    let refused = |index, mac, journal: &mut Journal| {
        lend_mac(&model, &name(index), mac, journal).unwrap_err().to_string()
    };
    let told = refused(0, MAC, &mut journal);
    assert!(told.contains("virtual function 1 of") && told.contains("has 02:00:00:00:00:07"));
    assert!(refused(1, other, &mut journal).contains("was given the address 02:00:00:00:00:07"));
    assert!(refused(2, other, &mut journal).contains("was given the address 02:00:00:00:00:09"));
    assert!(refused(0, MacAddress([1; 6]), &mut journal).contains("no single function's"));
    // Whoever has it anyway keeps it.
    let again = lend_mac(&model, &name(1), MAC, &mut journal).unwrap();
    return_mac(&model, &again, &mut journal).unwrap();
    assert_eq!(mac(1), MAC);
    return_mac(&model, &lent, &mut journal).unwrap();
    assert_eq!((mac(1), journal.changes().count()), (own, changes));

    let lent = lend_mac(&model, &name(0), MAC, &mut journal).unwrap();
    let new = NewSettings { mac: Some(other), ..NewSettings::default() };
    set(&model, &find(&model, PF_INTERFACE).unwrap(), 0, &new).unwrap();
    return_mac(&model, &lent, &mut journal).unwrap();
    assert_eq!(mac(0), other);
    lend_mac(&model, &name(1), MAC, &mut journal).unwrap();
    drop(journal);
    let mut journal = Journal::open(&model.directory.path().join("journal"), &model).unwrap();
    let undone = undo(&model, &mut journal).unwrap();
    assert_eq!(undone[0].outcome, Outcome::Restored);
    assert_eq!(find(&model, PF_INTERFACE).unwrap().numvfs, 0);
}

/// Whoever had the function by vfio would receive nothing any more.
#[test]
fn no_address_is_lent_where_the_driver_resets_the_function() {
    let model = Model::new();
    let mut journal = journal(&model);
    apply(&model, &wish(Some(1), vec![vf(0, Some(Purpose::Vfio))]), &mut journal).unwrap();
    let driver = model.device(PF).join("driver");
    fs::remove_file(&driver).unwrap();
    symlink(model.sys().join("bus/pci/drivers/i40e"), driver).unwrap();
    let changes = journal.changes().count();
    let name = VfName { pf: PF_INTERFACE.to_owned(), index: 0 };
    let refused = lend_mac(&model, &name, MAC, &mut journal).unwrap_err().to_string();
    assert!(refused.contains("the driver i40e resets") && refused.contains("[[nic.vf]]"));
    assert_eq!(journal.changes().count(), changes);
}

/// Somebody else's functions may have addresses that somebody knows.
#[test]
fn functions_of_others_keep_their_addresses() {
    let model = Model::new();
    create(&model, &find(&model, PF_INTERFACE).unwrap(), 2).unwrap();
    let mut journal = journal(&model);
    let name = VfName { pf: PF_INTERFACE.to_owned(), index: 0 };
    let refused = lend_mac(&model, &name, MAC, &mut journal).unwrap_err().to_string();
    assert!(refused.contains("the host did not make the function"), "{refused}");
    assert_eq!(journal.changes().count(), 0);
}
