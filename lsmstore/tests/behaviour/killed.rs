//! Processes that are killed under load, again and again: what they were told is done is there, and nothing that they never
//! asked for.
//!
//! The process that is killed is this very test, told by a variable that it is. What it asks for and what it was told it writes to a file of two
//! numbers, which is the system's as soon as it is written. `LSMSTORE_KILLS` says how often (`cargo xtask soak lsm`).

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lsmstore::{Batch, Config, Durability, FlushOptions, KeepAll, LogChoice, Store, SystemEnv, Write, WriteError};
use object_store::local::LocalFileSystem;
use tokio::sync::Notify;

use crate::disk::quick_folder;

/// Tells the process that is to be killed where it works.
const FOLDER: &str = "LSMSTORE_KILLED_IN";
const KILLS: &str = "LSMSTORE_KILLS";
const TEST: &str = "killed::what_was_acknowledged_survives_a_kill_at_any_moment";
const COUNT: &[u8] = b"count";

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// The batch that makes state `n` of state `n - 1`.
fn batch(n: u64) -> Batch {
    let mut batch = Batch::new();
    for at in 0..5 {
        let key = format!("key{:04}", (n * 31 + at * 97) % 2_000).into_bytes();
        if (n + at).is_multiple_of(6) {
            batch.delete(&key);
        } else {
            batch.put(&key, format!("{n}.{at} {}", "x".repeat((n * 37 % 200) as usize)).as_bytes());
        }
    }
    batch.put(COUNT, n.to_string().as_bytes());
    batch
}

fn apply(model: &mut Model, n: u64) {
    for write in batch(n).iter() {
        match write {
            Write::Put { key, value } => drop(model.insert(key.to_vec(), value.to_vec())),
            Write::Delete { key } => drop(model.remove(key)),
            Write::DeleteRange { from, to } => model.retain(|key, _| &key[..] < from || &key[..] >= to),
        }
    }
}

fn content(store: &Store) -> Model {
    let view = store.view().unwrap();
    let mut scan = view.scan_prefix(b"", view.read_sequence()).unwrap();
    let mut found = Model::new();
    while let Some((key, value)) = scan.next().unwrap() {
        found.insert(key.to_vec(), value.to_vec());
    }
    found
}

fn count(model: &Model) -> u64 {
    model.get(COUNT).map_or(0, |text| std::str::from_utf8(text).unwrap().parse().unwrap())
}

async fn open(root: &Path) -> Store {
    let config = Config::new(root.join("local"), "test").memtable_bytes(32 << 10).block_bytes(512).l0_merge_trigger(3);
    let config = config.table_bytes(16 << 10).level_bytes(64 << 10);
    let bucket = root.join("bucket");
    std::fs::create_dir_all(&bucket).unwrap();
    let objects = Arc::new(LocalFileSystem::new_with_prefix(bucket).unwrap());
    Store::open(config, objects, Arc::new(SystemEnv::new()), LogChoice::Own).await.unwrap()
}

/// What the process asked for, and what it was told is done.
struct Expected(File);

impl Expected {
    fn open(root: &Path) -> Expected {
        let mut options = OpenOptions::new();
        Expected(options.create(true).truncate(false).read(true).write(true).open(root.join("expected")).unwrap())
    }

    fn set(&self, place: u64, n: u64) {
        self.0.write_all_at(&n.to_le_bytes(), 8 * place).unwrap();
    }

    fn issued(&self) -> u64 {
        self.get(0)
    }

    fn acknowledged(&self) -> u64 {
        self.get(1)
    }

    fn get(&self, place: u64) -> u64 {
        let mut bytes = [0; 8];
        // Nothing was written yet: none.
        let _ = self.0.read_exact_at(&mut bytes, 8 * place);
        u64::from_le_bytes(bytes)
    }
}

/// Works in the background until the process ends.
async fn keep_house(store: Store, wake: Arc<Notify>) {
    loop {
        wake.notified().await;
        store.flush_local(FlushOptions::default()).await.unwrap();
        while store.wants_merge() {
            store.merge_local(Arc::new(KeepAll)).await.unwrap();
        }
    }
}

/// Writes until it is killed.
async fn work(root: &Path) {
    let expected = Expected::open(root);
    let store = open(root).await;
    let wake = Arc::new(Notify::new());
    tokio::spawn(keep_house(store.clone(), Arc::clone(&wake)));
    let (uploaded, publish) = (store.clone(), Arc::new(Notify::new()));
    let told = Arc::clone(&publish);
    tokio::spawn(async move {
        loop {
            told.notified().await;
            uploaded.publish().await.unwrap();
        }
    });
    let mut n = count(&content(&store));
    loop {
        n += 1;
        expected.set(0, n);
        let durability = if n.is_multiple_of(3) { Durability::Local } else { Durability::Memory };
        loop {
            match store.write(batch(n), durability).await {
                Ok(_) => break,
                Err(WriteError::Full { .. }) => wake.notify_one(),
                Err(error) => panic!("{error}"),
            }
            tokio::task::yield_now().await;
        }
        expected.set(1, n);
        if store.wants_flush() || n.is_multiple_of(40) {
            wake.notify_one();
        }
        if n.is_multiple_of(70) {
            publish.notify_one();
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// The process, killed at the latest when this is dropped.
struct Process(Child);

impl Process {
    fn start(root: &Path) -> Process {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([TEST, "--exact", "--nocapture"]).env(FOLDER, root);
        Process(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Numbers that look like chance.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

#[test]
fn what_was_acknowledged_survives_a_kill_at_any_moment() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return runtime().block_on(work(Path::new(&folder)));
    }
    let kills: u64 = std::env::var(KILLS).ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let root = quick_folder();
    let expected = Expected::open(root.path());
    let mut dice = Dice(kills);
    let (mut model, mut held, mut at_rest) = (Model::new(), 0, false);
    for kill in 0..kills {
        // Some die while they open the store, most in the midst of their work.
        let target = expected.acknowledged().max(held) + [0, 1, 50, 300][dice.below(4) as usize] + dice.below(50);
        let mut process = Process::start(root.path());
        let begin = Instant::now();
        while expected.acknowledged() < target && (target > held + 1 || begin.elapsed() < Duration::from_millis(20)) {
            let ended = process.0.try_wait().unwrap();
            assert!(ended.is_none(), "kill {kill}: the process ended by itself, {ended:?}");
            assert!(begin.elapsed() < Duration::from_secs(120), "kill {kill}: {} of {target}", expected.acknowledged());
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_micros(dice.below(5_000)));
        drop(process);
        let runtime = runtime();
        let store = runtime.block_on(open(root.path()));
        let found = content(&store);
        let now = count(&found);
        let (least, most) = (expected.acknowledged().max(held), expected.issued().max(held));
        assert!((least..=most).contains(&now), "kill {kill}: {now} batches, expected {least} to {most}");
        (held + 1..=now).for_each(|n| apply(&mut model, n));
        assert!(found == model, "kill {kill}: the state is not the one after {now} batches");
        held = now;
        at_rest = !at_rest;
        if at_rest {
            runtime.block_on(store.close()).unwrap();
        }
    }
    println!("{kills} kills, {held} batches");
    assert!(held > 0, "nothing was ever written");
}
