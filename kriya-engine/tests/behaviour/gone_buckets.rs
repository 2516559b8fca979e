//! An empty bucket where there was one with tables: not mounted, wrongly typed, removed.

use std::path::PathBuf;

use kriya_engine::catalogue::{CatalogueEntry, TableEntry};
use kriya_engine::worker::Endpoint;
use kriya_engine::{ClientError, PollWait, keys};

use crate::cluster::{Cluster, files};

/// An empty folder in the place of the objects; the old one is returned.
fn empty(cluster: &Cluster) -> PathBuf {
    let (objects, aside) = (cluster.objects(), cluster.dir.path().join("not mounted"));
    std::fs::rename(&objects, &aside).unwrap();
    std::fs::create_dir(&objects).unwrap();
    aside
}

/// A crashed server with a row in the bucket and one on the local disk alone.
fn with_a_pending_table() -> Cluster {
    let mut cluster = Cluster::new();
    let mut a = cluster.connect();
    a.put_row(1, 1, b"published");
    a.commit();
    a.flush();
    drop(a);
    cluster.put_locally(1, 2, b"local");
    cluster.crash_worker();
    // As past the backlog: the local disk has the only copy.
    cluster.host.fill(1000);
    cluster
}

#[test]
fn it_is_refused_and_neither_the_local_disk_nor_the_slot_is_touched() {
    let mut cluster = with_a_pending_table();
    let aside = empty(&cluster);
    let (before, slot) = (files(&cluster.dir.path().join("store")), cluster.host.lock().slot);
    cluster.start();
    let message = cluster.refused();
    assert!(message.contains("is empty, but") && message.contains("1 of which may be nowhere else"), "{message}");
    let Err(ClientError::Worker { hint, .. }) = cluster.take_over(false) else { panic!("it was taken over") };
    assert!(hint.contains("mounted") && hint.contains("accept_loss => true"), "{hint}");
    cluster.crash_worker();
    assert_eq!(files(&cluster.dir.path().join("store")), before);
    assert_eq!(cluster.host.lock().slot, slot);
    std::fs::remove_dir(cluster.objects()).unwrap();
    std::fs::rename(&aside, cluster.objects()).unwrap();
    cluster.start();
    let mut b = cluster.connect();
    assert_eq!(b.get_row(1, 1).as_deref(), Some(&b"published"[..]));
    assert_eq!(b.get_row(1, 2).as_deref(), Some(&b"local"[..]));
}

#[test]
fn so_it_is_after_an_orderly_stop() {
    let mut cluster = Cluster::new();
    let mut a = cluster.connect();
    let id = a.session.new_id(&mut PollWait).unwrap().unwrap();
    let entry = CatalogueEntry::Table(TableEntry {
        database: 1,
        tablespace: 1,
        relfilenumber: 1,
        created_xid: a.xid,
        incarnation: 1,
        name: "table".into(),
    });
    a.put(&keys::catalogue(id), &entry.encode());
    a.commit();
    drop(a);
    cluster.stop();
    empty(&cluster);
    cluster.start();
    assert!(cluster.refused().contains("0 of which may be nowhere else"));
}

#[test]
fn another_store_s_bucket_is_refused_while_a_table_is_on_the_local_disk_alone() {
    let mut cluster = with_a_pending_table();
    empty(&cluster);
    let mut other = cluster.twin();
    other.start();
    other.connect().flush();
    other.stop();
    cluster.start();
    let message = cluster.refused();
    assert!(message.contains("is store") && message.contains("may be nowhere else"), "{message}");
}

#[test]
fn by_order_an_empty_store_is_made_and_what_the_local_disk_has_is_set_aside() {
    let mut cluster = with_a_pending_table();
    empty(&cluster);
    cluster.start();
    cluster.refused();
    cluster.take_over(true).unwrap();
    assert_eq!(cluster.connect().get_row(1, 1), None);
    assert_eq!(files(&cluster.dir.path().join("store/left-behind")).len(), 2);
    assert!(cluster.host.warned("may be nowhere else"));
    cluster.restart_after_server_crash();
    cluster.connect();
}

#[test]
fn a_local_manifest_that_is_unreadable_does_not_make_an_empty_bucket_right() {
    let mut cluster = with_a_pending_table();
    empty(&cluster);
    std::fs::write(cluster.dir.path().join("store/MANIFEST"), b"damaged").unwrap();
    cluster.start();
    assert!(cluster.refused().contains("is unreadable"));
}

#[test]
fn a_server_without_tables_goes_on_with_any_bucket() {
    let mut cluster = Cluster::new();
    cluster.connect().flush();
    cluster.stop();
    let aside = empty(&cluster);
    cluster.start();
    cluster.connect();
    // As after a crash, which leaves more behind.
    cluster.crash_worker();
    std::fs::remove_dir_all(aside).unwrap();
    empty(&cluster);
    cluster.start();
    cluster.connect();
}

#[test]
fn objects_in_memory_are_gone_with_the_worker_and_touch_nothing_of_other_ones() {
    let mut cluster = with_a_pending_table();
    cluster.endpoint = Endpoint::Memory;
    for _ in 0..2 {
        cluster.start();
        let mut a = cluster.connect();
        assert_eq!(a.get_row(1, 1), None);
        a.put_row(1, 1, b"in memory");
        a.commit();
        a.flush();
        drop(a);
        cluster.crash_worker();
    }
    cluster.endpoint = Endpoint::Local;
    cluster.start();
    let files = files(&cluster.dir.path().join("store/mirror"));
    assert_eq!(files.len(), 2, "{files:?}");
}
