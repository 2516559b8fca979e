//! Crashes after every single thing that a store does, to the local disk or to the object store: what it acknowledged is
//! there, and nothing that was never asked for, whatever the disk kept of what was not synced.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::TryStreamExt;
use kriya_testkit::stores::{CrashStore, Left};
use lsmstore::objects::{self, ObjectStore};
use lsmstore::{
    Batch, Config, Durability, FlushError, FlushOptions, KeepAll, LogChoice, OpenError, Store, Unusable, WriteError,
};
use object_store::ObjectStoreExt;

use crate::disk::{Disk, Loss, quick_folder};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// The key that tells how many batches a state holds.
const COUNT: &[u8] = b"count";

/// The batch that makes state `n` of state `n - 1`: some keys are new, some are changed, some are gone.
fn batch(n: u64) -> Batch {
    let mut batch = Batch::new();
    for at in 0..6 {
        let key = format!("key{:02}", (n * 5 + at * 7) % 30).into_bytes();
        if (n + at).is_multiple_of(4) {
            batch.delete(&key);
        } else {
            batch.put(&key, format!("{n}.{at} {}", "x".repeat((n * 37 % 90) as usize)).as_bytes());
        }
    }
    batch.put(COUNT, n.to_string().as_bytes());
    batch
}

/// The state after `n` batches.
fn model(n: u64) -> Model {
    let mut model = Model::new();
    for n in 1..=n {
        for write in batch(n).iter() {
            match write {
                lsmstore::Write::Put { key, value } => drop(model.insert(key.to_vec(), value.to_vec())),
                lsmstore::Write::Delete { key } => drop(model.remove(key)),
                lsmstore::Write::DeleteRange { from, to } => model.retain(|key, _| &key[..] < from || &key[..] >= to),
            }
        }
    }
    model
}

fn content(store: &Store) -> Model {
    let view = store.view().unwrap();
    let mut scan = view.scan_prefix(b"", view.read_sequence()).unwrap();
    let mut found = Model::new();
    while let Some((key, value)) = scan.next().unwrap() {
        assert!(found.insert(key.to_vec(), value.to_vec()).is_none(), "a key came twice");
    }
    found
}

/// How many batches a store holds, all of them whole.
fn count(store: &Store) -> u64 {
    let found = content(store);
    let count = found.get(COUNT).map_or(0, |text| std::str::from_utf8(text).unwrap().parse().unwrap());
    assert_eq!(found, model(count), "the state is none of those that there were");
    count
}

fn config(dir: &Path) -> Config {
    Config::new(dir, "test")
        .memtable_bytes(4096)
        .block_bytes(256)
        .table_bytes(1024)
        .level_bytes(4096)
        .l0_merge_trigger(2)
}

async fn open(disk: &Arc<Disk>, config: Config, objects: &Arc<dyn ObjectStore>) -> Result<Store, OpenError> {
    Store::open(config, Arc::clone(objects), Arc::clone(disk) as _, LogChoice::Own).await
}

/// How far the work had got when so much had been done.
#[derive(Clone, Copy, Debug)]
struct Mark {
    ops: usize,
    events: usize,
    /// Batches asked for.
    issued: u64,
    /// Batches acknowledged at all, and up to the last one that was acknowledged as synced.
    acknowledged: u64,
    synced: u64,
    /// Batches up to the last one that was acknowledged as being in the object store, or was flushed to it.
    published: u64,
    /// Whether the second folder has taken over, or is about to.
    second: bool,
}

struct Work {
    disk: Arc<Disk>,
    crash: Arc<CrashStore>,
    objects: Arc<dyn ObjectStore>,
    root: PathBuf,
    /// The log is kept in the object store as well.
    remote: bool,
    now: Mark,
    marks: Vec<Mark>,
}

impl Work {
    fn new(root: &Path, remote: bool) -> Work {
        let crash = Arc::new(CrashStore::new());
        let objects = Arc::clone(&crash) as _;
        let now = Mark { ops: 0, events: 0, issued: 0, acknowledged: 0, synced: 0, published: 0, second: false };
        let clock = Arc::clone(&crash);
        let disk = Arc::new(Disk::with_clock(root, Box::new(move || clock.events())));
        Work { disk, crash, objects, root: root.to_owned(), remote, now, marks: vec![now] }
    }

    fn mark(&mut self) {
        (self.now.ops, self.now.events) = (self.disk.ops(), self.crash.events());
        self.marks.push(self.now);
    }

    async fn open(&self, folder: &str, accept: bool) -> Store {
        let config = config(&self.root.join(folder)).accept_log_loss(accept).remote_log(self.remote);
        open(&self.disk, config, &self.objects).await.unwrap()
    }

    async fn write(&mut self, store: &Store, durability: Durability) {
        self.now.issued += 1;
        self.mark();
        loop {
            match store.write(batch(self.now.issued), durability).await {
                Ok(_) => break,
                Err(WriteError::Full { .. }) => drop(store.flush_local(FlushOptions::default()).await.unwrap()),
                Err(error) => panic!("{error}"),
            }
        }
        self.now.acknowledged = self.now.issued;
        match durability {
            Durability::Local => self.now.synced = self.now.issued,
            Durability::Remote => self.now.published = self.now.issued,
            _ => {}
        }
        self.mark();
    }

    async fn flush(&mut self, store: &Store, clean: bool) {
        store.flush_with(FlushOptions { clean, force: false }).await.unwrap();
        (self.now.synced, self.now.published) = (self.now.issued, self.now.issued);
        self.mark();
    }

    /// Writes, flushes and merges in turns.
    async fn rounds(&mut self, store: &Store, rounds: u64) {
        for round in 0..rounds {
            let durability = match round % 3 {
                1 => Durability::Memory,
                2 if self.remote => Durability::Remote,
                _ => Durability::Local,
            };
            self.write(store, durability).await;
            if round % 4 == 2 {
                store.flush_local(FlushOptions::default()).await.unwrap();
                self.now.synced = self.now.issued;
                self.mark();
            }
            if round % 5 == 4 {
                self.flush(store, false).await;
            }
            if store.wants_merge() {
                store.merge_local(Arc::new(KeepAll)).await.unwrap();
                self.mark();
            }
        }
    }
}

/// Objects that a look at a state may change.
async fn copy(from: &Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
    let to = objects::memory();
    let listed: Vec<_> = from.list(None).try_collect().await.unwrap();
    for meta in listed {
        let bytes = from.get(&meta.location).await.unwrap().bytes().await.unwrap();
        to.put(&meta.location, bytes.into()).await.unwrap();
    }
    to
}

/// Opens what a crash has left in the folder that the work went on in.
async fn reopen(work: &Work, ops: usize, mark: &Mark, loss: Loss, objects: &Arc<dyn ObjectStore>) -> (u64, u64) {
    let root = quick_folder();
    work.disk.left_behind(ops, loss, root.path());
    let disk = Arc::new(Disk::new(root.path()));
    let objects = copy(objects).await;
    let dir = root.path().join(if mark.second { "second" } else { "first" });
    let config = config(&dir).accept_log_loss(mark.second).remote_log(work.remote);
    let store = open(&disk, config, &objects).await;
    let store = store.unwrap_or_else(|error| panic!("after {ops} operations, {loss:?}, {mark:?}: {error}"));
    let found = count(&store);
    // And it goes on from there.
    store.write(batch(found + 1), Durability::Local).await.unwrap();
    store.flush().await.unwrap();
    while store.wants_merge() {
        store.merge(Arc::new(KeepAll)).await.unwrap();
    }
    (found, count(&store))
}

#[tokio::test]
async fn a_crash_after_any_operation_leaves_what_was_acknowledged_and_nothing_that_was_not_asked_for() {
    crashes(false).await;
}

#[tokio::test]
async fn a_crash_after_any_operation_leaves_the_same_where_the_log_is_in_the_bucket_as_well() {
    crashes(true).await;
}

async fn crashes(remote: bool) {
    let root = quick_folder();
    let mut work = Work::new(root.path(), remote);
    let store = work.open("first", false).await;
    work.mark();
    work.rounds(&store, 12).await;
    work.flush(&store, true).await;
    store.close().await.unwrap();
    // From an orderly stop, to one that is none.
    let store = work.open("first", false).await;
    work.rounds(&store, 8).await;
    drop(store);
    let first = work.open("first", false).await;
    work.rounds(&first, 3).await;
    work.flush(&first, false).await;
    // Another folder takes over, while the first writer lives on.
    work.now.second = true;
    work.mark();
    let second = work.open("second", true).await;
    work.rounds(&second, 4).await;
    let refused = first.flush_with(FlushOptions { clean: false, force: true }).await;
    assert!(matches!(refused, Err(FlushError::Unusable(Unusable::Fenced { .. }))), "{refused:?}");
    work.rounds(&second, 5).await;
    assert_eq!(count(&second), work.now.issued);
    assert!(first.stats().flushes > 0 && second.stats().merges > 0, "all that it does was done");

    let objects = work.crash.left_behind().await.unwrap();
    let times = work.disk.times();
    let mut looks = 0;
    for ops in 0..=times.len() {
        // What the object store can have seen between this operation on the disk and the next.
        let from = if ops == 0 { 0 } else { times[ops - 1] };
        let to = times.get(ops).copied().unwrap_or(work.crash.events());
        for left in objects.iter().filter(|left| (from..=to).contains(&left.events)) {
            look(&work, ops, left).await;
            looks += 1;
        }
    }
    assert!(looks > times.len() + work.crash.events(), "each operation was the last one once: {looks}");
}

/// Looks at everything that a crash at one moment can leave.
async fn look(work: &Work, ops: usize, left: &Left) {
    let mark = work.marks.iter().rfind(|mark| mark.ops <= ops && mark.events <= left.events).unwrap();
    for loss in [Loss::Process, Loss::Unsynced, Loss::Torn(7 * ops as u64 + 1)] {
        let (found, after) = reopen(work, ops, mark, loss, &left.objects).await;
        let least = if loss == Loss::Process { mark.acknowledged } else { mark.synced.max(mark.published) };
        assert!(
            (least..=mark.issued).contains(&found),
            "{found} batches after {ops} operations and {} events, {loss:?}, {mark:?}",
            left.events
        );
        assert_eq!(after, found + 1, "it goes on from there");
    }
    // The local disk is lost.
    let root = quick_folder();
    let disk = Arc::new(Disk::new(root.path()));
    // Whoever has the log there need not accept that any of it is lost.
    let config = config(&root.path().join("other")).accept_log_loss(!work.remote).remote_log(work.remote);
    let store = open(&disk, config, &copy(&left.objects).await).await.unwrap();
    let found = count(&store);
    assert!((mark.published..=mark.issued).contains(&found), "{found} batches in the bucket, {mark:?}");
}
