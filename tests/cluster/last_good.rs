//! What is kept of a cluster on disk.

use std::fs;
use std::sync::Arc;

use tapestry::cluster::last_good::{FILE, LastGood};
use tapestry::cluster::membership::Memory;
use tapestry::cluster::store::Own;
use tapestry::config::{Cluster, Store};

use crate::{config, etcd_store, exception, key, net, node, own};

/// A change of what a file belongs to.
type Both = dyn Fn(&mut Cluster, &mut Own);

fn memory() -> Memory {
    let mut second = node(2);
    second.exceptions = vec![exception("10.77.0.1/32", 4)];
    Memory {
        cluster: Some("6f2ad6b0-6a1c-4b26-9d0e-c2c1e5a7b0d1".to_owned()),
        nodes: [(key(0), node(0)), (key(2), second), (key(1), node(1))]
            .map(|(key, node)| (key, Arc::new(node)))
            .to_vec(),
        generations: vec![(net("10.77.0.1/32"), 4), (net("10.77.0.2/32"), 9)],
        answered_ms: Some(12),
    }
}

#[test]
fn what_was_kept_is_there_again() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("not/yet/there");
    let place = LastGood::new(&state, &config(etcd_store(Vec::new())), &own(0));
    assert_eq!(place.load().unwrap(), (None, None));
    place.save(memory()).unwrap();
    assert_eq!(place.load().unwrap(), (Some(memory()), None));
    place.save(Memory::default()).unwrap();
    assert_eq!(place.load().unwrap(), (Some(Memory::default()), None));
    LastGood::remove(&state).unwrap();
    LastGood::remove(&state).unwrap();
    assert_eq!(place.load().unwrap(), (None, None));
}

#[test]
fn a_file_cut_at_any_byte_is_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    let place = LastGood::new(dir.path(), &config(etcd_store(Vec::new())), &own(0));
    place.save(memory()).unwrap();
    let path = dir.path().join(FILE);
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let (memory, aside) = place.load().unwrap();
        let aside = aside.unwrap_or_else(|| panic!("cut at {length} was taken"));
        assert!(memory.is_none() && !aside.reason.is_empty() && !path.exists());
        assert_eq!(fs::read(&aside.path).unwrap(), &whole[..length]);
    }
    for (text, reason) in [("[]", "invalid"), ("{\"version\":1}", "missing"), ("\0", "expected")] {
        fs::write(&path, text).unwrap();
        let aside = place.load().unwrap().1.unwrap();
        assert!(aside.reason.contains(reason), "{aside:?}");
    }
}

#[test]
fn what_is_of_another_node_or_cluster_is_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = config(etcd_store(Vec::new()));
    let place = |change: &Both| {
        let (mut cluster, mut own) = (cluster.clone(), own(0));
        change(&mut cluster, &mut own);
        LastGood::new(dir.path(), &cluster, &own)
    };
    let others: [(&str, &Both); 5] = [
        ("of node \"node-0\"", &|_, own| own.name = "x".to_owned()),
        ("identity", &|_, own| own.identity = "x".to_owned()),
        ("networks", &|cluster, _| cluster.networks[0].net = net("10.0.0.0/8")),
        ("VNI", &|cluster, _| cluster.vni = encap::Vni::new(7).unwrap()),
        ("store", &|cluster, _| cluster.store = Store::Static(Vec::new())),
    ];
    for (what, change) in others {
        place(&|_, _| {}).save(memory()).unwrap();
        let (memory, aside) = place(change).load().unwrap();
        let reason = aside.unwrap().reason;
        assert!(memory.is_none() && reason.contains(what), "{what}: {reason}");
    }
}

#[test]
fn what_cannot_be_written_leaves_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let place = LastGood::new(dir.path(), &config(etcd_store(Vec::new())), &own(0));
    place.save(memory()).unwrap();
    // A directory in the place of the file to be written: as good as a full disk, for root too.
    fs::create_dir(dir.path().join("cluster.json.tmp")).unwrap();
    let error = place.save(Memory::default()).unwrap_err();
    assert_eq!(error.step, "create");
    assert_eq!(place.load().unwrap().0, Some(memory()));
}
