//! Two writers that take one bucket from each other, over HTTP and everything that fails there: each key is a list that
//! every write makes longer by one, so its last value tells which writes there were, and in which order.
//!
//! A write that was acknowledged is in the list, once; one that was acknowledged before another one began stands before
//! it; what somebody read when he took over stays for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kriya_testkit::fault::{Fault, Kind, Operation};
use kriya_testkit::s3::S3Server;
use lsmstore::{Batch, Config, Durability, FlushError, KeepAll, LogChoice, Store, SystemEnv, View, WriteError};

use crate::places::{client, server};

const KEYS: [&str; 3] = ["red", "green", "blue"];
/// Acknowledged writes of each writer.
const WANTED: usize = 25;

/// An acknowledged write: it made `key` longer by `name`, between two moments.
struct Write {
    key: &'static str,
    name: String,
    begun: u64,
    done: u64,
}

/// What a writer saw and did.
#[derive(Default)]
struct History {
    acknowledged: Vec<Write>,
    /// Lists as they were at each takeover.
    read: Vec<(&'static str, Vec<String>)>,
    takeovers: usize,
}

fn list(view: &View, key: &str) -> Vec<String> {
    let value = view.get(key.as_bytes(), view.read_sequence()).unwrap().unwrap_or_default();
    std::str::from_utf8(value).unwrap().split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// By what writes are acknowledged.
#[derive(Clone, Copy, PartialEq)]
enum By {
    Flush,
    /// The log in the bucket, and a flush now and then.
    Log,
}

async fn open(server: &S3Server, dir: &tempfile::TempDir, by: By) -> Store {
    let config = Config::new(dir.path(), "store").memtable_bytes(16 << 10).block_bytes(256).l0_merge_trigger(3);
    // A folder holds the end of a log that was taken over.
    let config = config.remote_log(by == By::Log).accept_log_loss(true);
    let log = if by == By::Log { LogChoice::Own } else { LogChoice::Nobody };
    loop {
        let env = Arc::new(SystemEnv::new());
        match Store::open(config.clone(), client(server), env, log.clone()).await {
            Ok(store) => return store,
            Err(error) => assert!(!error.to_string().contains("damaged"), "{error}"),
        }
    }
}

/// Writes until enough was acknowledged.
async fn write(server: &S3Server, clock: &AtomicU64, writer: &str, by: By) -> History {
    let dir = tempfile::tempdir().unwrap();
    let mut history = History::default();
    let mut n = 0;
    while history.acknowledged.len() < WANTED {
        let store = open(server, &dir, by).await;
        history.takeovers += 1;
        let Ok(view) = store.view() else { continue };
        history.read.extend(KEYS.map(|key| (key, list(&view, key))));
        'owner: for _ in 0..6 {
            n += 1;
            let (key, name) = (KEYS[n % KEYS.len()], format!("{writer}{n}"));
            // A merge may have been told before that the bucket is another one's.
            let Ok(view) = store.view() else { break };
            let mut names = list(&view, key);
            names.push(name.clone());
            let begun = clock.fetch_add(1, Ordering::SeqCst);
            let mut batch = Batch::new();
            batch.put(key.as_bytes(), names.join(",").as_bytes());
            let written = match by {
                By::Flush => store.apply(&batch),
                By::Log => store.write(batch, Durability::Remote).await,
            };
            match written {
                Ok(_) => {}
                Err(WriteError::Unusable(_)) => break,
                Err(error) => panic!("{error}"),
            }
            while by == By::Flush || n.is_multiple_of(3) {
                match store.flush().await {
                    Ok(_) => break,
                    Err(FlushError::Unusable(_)) => break 'owner,
                    Err(_) => {}
                }
            }
            let done = clock.fetch_add(1, Ordering::SeqCst);
            history.acknowledged.push(Write { key, name, begun, done });
            if store.wants_merge() {
                // One that fails is due again.
                let _ = store.merge(Arc::new(KeepAll)).await;
            }
        }
    }
    history
}

async fn contend(faults: Vec<Fault>, by: By) {
    let server = server();
    let dir = tempfile::tempdir().unwrap();
    // Who comes first makes the store; that is not what is tried here.
    open(&server, &dir, by).await.close().await.unwrap();
    let disturbed = !faults.is_empty();
    server.set_faults(faults);
    let clock = AtomicU64::new(0);
    let (one, two) = tokio::join!(write(&server, &clock, "a", by), write(&server, &clock, "b", by));
    assert!(!disturbed || server.struck() > 0, "no fault struck");
    server.up();
    let elsewhere = tempfile::tempdir().unwrap();
    let store = open(&server, &elsewhere, by).await;
    let view = store.view().unwrap();
    for key in KEYS {
        let last = list(&view, key);
        let at = |name: &str| {
            let places: Vec<_> = last.iter().enumerate().filter(|(_, found)| *found == name).collect();
            assert_eq!(places.len(), 1, "{key}: {name} was acknowledged and stands in {last:?}");
            places[0].0
        };
        let mut writes: Vec<&Write> =
            one.acknowledged.iter().chain(&two.acknowledged).filter(|write| write.key == key).collect();
        writes.sort_by_key(|write| write.done);
        for later in &writes {
            for earlier in writes.iter().filter(|earlier| earlier.done < later.begun) {
                assert!(at(&earlier.name) < at(&later.name), "{key}: {} before {}", later.name, earlier.name);
            }
        }
        for (_, read) in one.read.iter().chain(&two.read).filter(|(name, _)| *name == key) {
            assert!(last.starts_with(read), "{key}: {read:?} was read, and {last:?} is left");
        }
    }
    assert!(one.takeovers + two.takeovers > 2, "the bucket changed hands");
}

/// Answers get lost, and conflicts are none.
fn ambiguous() -> Vec<Fault> {
    vec![
        Fault::always(Kind::After).on(&[Operation::Put]).chance(0.2, 21),
        Fault::always(Kind::Conflict).chance(0.2, 22),
    ]
}

/// Everything fails a little.
fn everything() -> Vec<Fault> {
    vec![
        Fault::always(Kind::Before).chance(0.1, 31),
        Fault::always(Kind::After).chance(0.1, 32),
        Fault::always(Kind::Conflict).chance(0.1, 33),
        Fault::always(Kind::Cut).on(&[Operation::Get]).chance(0.1, 34),
        Fault::always(Kind::Break).on(&[Operation::Put]).chance(0.05, 35),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_lose_no_write_that_was_acknowledged() {
    contend(Vec::new(), By::Flush).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_lose_nothing_when_answers_get_lost_and_conflicts_are_none() {
    contend(ambiguous(), By::Flush).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_lose_nothing_when_everything_fails_a_little() {
    contend(everything(), By::Flush).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_who_keep_their_logs_in_the_bucket_lose_no_write_that_was_acknowledged() {
    contend(Vec::new(), By::Log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_who_keep_their_logs_in_the_bucket_lose_nothing_when_answers_get_lost() {
    contend(ambiguous(), By::Log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_who_keep_their_logs_in_the_bucket_lose_nothing_when_everything_fails_a_little() {
    contend(everything(), By::Log).await;
}
