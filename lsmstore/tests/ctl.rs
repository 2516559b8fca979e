//! What `lsmctl` says of a store that a test made, whole and damaged: the tool itself is run.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use lsmstore::{Batch, Config, Durability, KeepAll, LogChoice, Store, SystemEnv, objects};
use serde_json::Value;

/// A store in folders, closed: its bucket, and its local folder.
struct Made {
    dir: tempfile::TempDir,
}

impl Made {
    fn bucket(&self) -> PathBuf {
        self.dir.path().join("bucket")
    }

    fn local(&self) -> PathBuf {
        self.dir.path().join("local")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let url = format!("file://{}/deep/prefix", self.bucket().display());
        Command::new(env!("CARGO_BIN_EXE_lsmctl")).arg("--store").arg(url).args(arguments).output().unwrap()
    }

    /// What it prints; it must end with `code`.
    fn says(&self, arguments: &[&str], code: i32) -> String {
        let output = self.run(arguments);
        let text = String::from_utf8(output.stdout).unwrap() + std::str::from_utf8(&output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        text
    }

    fn json(&self, arguments: &[&str], code: i32) -> Vec<Value> {
        let text = self.says(&[arguments, &["--json"]].concat(), code);
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    /// Objects whose name contains `part`, in order.
    fn objects(&self, part: &str) -> Vec<PathBuf> {
        files(&self.bucket()).into_iter().filter(|path| path.to_string_lossy().contains(part)).collect()
    }
}

/// All files below a folder, in order.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Names and contents of all files below a folder.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    files(dir).into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Three flushes and a merge of them, and then a write that is only in the log.
async fn made() -> Made {
    let made = Made { dir: tempfile::tempdir().unwrap() };
    let config = Config::new(made.local(), "deep/prefix").block_bytes(256);
    let bucket = objects::local(&made.bucket()).unwrap();
    let store = Store::open(config, bucket, Arc::new(SystemEnv::new()), LogChoice::Own).await.unwrap();
    for round in 0..3 {
        let mut batch = Batch::new();
        for n in 0..40 {
            batch.put(format!("key {n:03}").as_bytes(), format!("value {round} {n}").as_bytes());
        }
        batch.put(b"\x00\xffbinary", b"\x01").delete(format!("gone {round}").as_bytes());
        store.write(batch, Durability::Local).await.unwrap();
        store.flush().await.unwrap();
        if round == 1 {
            store.merge(Arc::new(KeepAll)).await.unwrap();
        }
    }
    let mut batch = Batch::new();
    batch.put(b"logged", b"only").delete(b"key 000");
    store.write(batch, Durability::Local).await.unwrap();
    made
}

#[tokio::test]
async fn manifests_are_listed_and_shown() {
    let made = made().await;
    let listed = made.json(&["manifest", "list"], 0);
    let numbers: Vec<u64> = listed.iter().map(|line| line["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5], "opened, three flushes, a merge");
    let newest = made.json(&["manifest", "dump"], 0).remove(0);
    assert_eq!((newest["number"].as_u64(), newest["last_sequence"].as_u64()), (Some(5), Some(126)));
    let levels = newest["levels"].as_array().unwrap();
    assert_eq!((levels[0].as_array().unwrap().len(), levels[1].as_array().unwrap().len()), (1, 1));
    assert_eq!(levels[1][0]["min_key"], "\\x00\\xffbinary");
    let text = made.says(&["manifest", "dump", "1"], 0);
    assert!(text.contains("manifest        1 ") && text.contains("log             kept by the store"), "{text}");
    let local = made.says(&["manifest", "dump", "--file", &made.local().join("MANIFEST").display().to_string()], 0);
    assert!(local.contains("epoch           1"), "{local}");
    assert!(made.says(&["manifest", "dump", "77"], 2).contains("there is no manifest 77"));
}

#[tokio::test]
async fn entries_of_a_table_are_shown_from_bucket_and_mirror_alike() {
    let made = made().await;
    let newest = made.json(&["manifest", "dump"], 0).remove(0);
    let id = newest["levels"][1][0]["id"].as_str().unwrap().to_owned();
    let mirror = made.local().join("mirror").join(format!("{id}.lsm"));
    let entries = made.json(&["sst", "dump", &id], 0);
    assert_eq!(made.json(&["sst", "dump", &mirror.display().to_string()], 0), entries);
    let keys: Vec<&str> = entries.iter().map(|entry| entry["key"].as_str().unwrap()).collect();
    assert_eq!(
        keys.iter().filter(|key| key.starts_with("key ")).count(),
        40,
        "each once: older versions were merged away"
    );
    assert_eq!((keys[0], entries[0]["value"].as_str()), ("\\x00\\xffbinary", Some("\\x01")));
    let part = made.json(&["sst", "dump", &id, "--from", "key 010", "--to", "key 020", "--limit", "3"], 0);
    let part: Vec<_> = part.iter().map(|entry| (entry["key"].clone(), entry["value"].clone())).collect();
    let expected = [10, 11, 12].map(|n| (Value::from(format!("key {n:03}")), Value::from(format!("value 1 {n}"))));
    assert_eq!(part, expected);
    let hex = made.says(&["sst", "dump", &id, "--hex", "--from", "00ff", "--limit", "1"], 0);
    assert!(hex.contains("00ff62696e617279 @83 = 01"), "{hex}");
    assert!(made.says(&["sst", "verify", &id], 0).contains("in order"));
    assert!(made.says(&["sst", "dump", "9-9"], 2).contains("not in the object store"));
}

#[tokio::test]
async fn records_of_a_log_are_shown_up_to_where_it_is_cut_off() {
    let made = made().await;
    let segment = files(&made.local().join("wal")).pop().unwrap();
    let path = segment.display().to_string();
    let lines = made.json(&["wal", "dump", &path], 0);
    assert_eq!((lines[0]["epoch"].as_u64(), lines.len()), (Some(1), 3));
    assert_eq!((lines[1]["key"].as_str(), lines[1]["sequence"].as_u64()), (Some("logged"), Some(127)));
    assert_eq!((lines[2]["kind"].as_str(), lines[2]["value"].clone()), (Some("delete"), Value::Null));
    let bytes = std::fs::read(&segment).unwrap();
    std::fs::write(&segment, &bytes[..bytes.len() - 1]).unwrap();
    let text = made.says(&["wal", "dump", &path], 1);
    assert!(text.contains(&path) && text.contains("is damaged at byte 64"), "{text}");
}

#[tokio::test]
async fn the_log_in_the_bucket_is_listed_shown_and_scrubbed() {
    let made = made().await;
    assert!(made.json(&["wal", "list"], 0).is_empty());
    let config = Config::new(made.local(), "deep/prefix").remote_log(true);
    let bucket = objects::local(&made.bucket()).unwrap();
    let store = Store::open(config, bucket, Arc::new(SystemEnv::new()), LogChoice::Own).await.unwrap();
    let mut batch = Batch::new();
    batch.put(b"shipped", b"there").delete_range(b"a", b"b");
    store.write(batch, Durability::Remote).await.unwrap();
    drop(store);
    let listed = made.json(&["wal", "list"], 0);
    assert_eq!(listed.len(), 1);
    let name = format!("{}-{}", listed[0]["epoch"], listed[0]["number"]);
    assert!(made.says(&["wal", "list"], 0).contains(&format!("{name}: ")));
    let lines = made.json(&["wal", "dump", &name], 0);
    let kinds: Vec<_> = lines[1..].iter().map(|line| line["kind"].as_str().unwrap()).collect();
    assert_eq!((kinds, lines[1]["key"].as_str()), (vec!["put", "delete range"], Some("shipped")));
    assert_eq!(made.json(&["scrub"], 0)[0]["logs"], 1);
    let object = made.objects("/wal/").remove(0);
    let mut bytes = std::fs::read(&object).unwrap();
    bytes[80] ^= 1;
    std::fs::write(&object, bytes).unwrap();
    let text = made.says(&["scrub"], 1);
    assert!(text.contains("wal/0") && text.contains("damaged"), "{text}");
}

#[tokio::test]
async fn a_store_in_order_is_scrubbed_and_nothing_is_changed() {
    let made = made().await;
    let before = contents(made.dir.path());
    let scrubbed = made.json(&["scrub"], 0).remove(0);
    assert_eq!((scrubbed["manifests"].as_u64(), scrubbed["tables"].as_u64()), (Some(1), Some(2)));
    let all = made.json(&["scrub", "--all"], 0).remove(0);
    assert_eq!((all["manifests"].as_u64(), all["tables"].as_u64()), (Some(5), Some(4)));
    assert!(made.says(&["scrub"], 0).contains("all in order"));
    let stats = made.json(&["stats"], 0).remove(0);
    assert_eq!((stats["objects"]["tables"].as_u64(), stats["objects"]["unnamed"].as_u64()), (Some(2), Some(2)));
    assert_eq!((stats["objects"]["manifests"].as_u64(), stats["objects"]["others"].as_u64()), (Some(5), Some(0)));
    let bytes = |part: &str| made.objects(part).iter().map(|path| path.metadata().unwrap().len()).sum::<u64>();
    assert_eq!(stats["objects"]["manifest_bytes"].as_u64(), Some(bytes("/manifest/")));
    let tables =
        stats["objects"]["table_bytes"].as_u64().unwrap() + stats["objects"]["unnamed_bytes"].as_u64().unwrap();
    assert_eq!(tables, bytes("/sst/"));
    assert!(made.says(&["stats"], 0).contains("\nL1 "));
    assert_eq!(contents(made.dir.path()), before);
}

#[tokio::test]
async fn a_scrub_names_every_damaged_place() {
    let made = made().await;
    let newest = made.json(&["manifest", "dump"], 0).remove(0);
    let id = newest["levels"][1][0]["id"].as_str().unwrap().to_owned();
    let object = made.objects(&id.replace('-', "/")).remove(0);
    let bytes = std::fs::read(&object).unwrap();
    // Two bytes in different blocks.
    let mut damaged = bytes.clone();
    damaged[3] ^= 1;
    damaged[400] ^= 1;
    std::fs::write(&object, &damaged).unwrap();
    let found = made.json(&["scrub"], 1).remove(0);
    let damage = found["damage"].as_array().unwrap();
    assert_eq!(damage.len(), 2, "{damage:?}");
    assert!(damage[0]["object"].as_str().unwrap().ends_with(".sst"));
    assert_eq!(damage[0]["offset"].as_u64(), Some(0));
    let second = damage[1]["offset"].as_u64().unwrap();
    assert!(second > 0 && second <= 400);
    let text = made.says(&["scrub"], 1);
    assert!(text.contains("is damaged at byte 0") && text.contains("2 damaged places"), "{text}");
    assert!(made.says(&["sst", "verify", &id], 1).contains("is damaged at byte 0"));
    // Wherever one byte is changed, it is found.
    for at in (0..bytes.len()).step_by(97) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x20;
        std::fs::write(&object, &damaged).unwrap();
        assert!(!made.json(&["scrub"], 1)[0]["damage"].as_array().unwrap().is_empty(), "byte {at}");
    }
    std::fs::remove_file(&object).unwrap();
    assert!(made.says(&["scrub"], 1).contains("is named by a manifest, but is not there"));
    std::fs::write(&object, &bytes).unwrap();
    made.says(&["scrub"], 0);
    let manifest = made.objects("/manifest/").pop().unwrap();
    let mut bytes = std::fs::read(&manifest).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&manifest, bytes).unwrap();
    assert!(made.says(&["scrub"], 1).contains("manifest/00000000000000000005 is damaged at byte"));
}

#[tokio::test]
async fn whoever_stops_reading_ends_it_quietly() {
    let made = made().await;
    let mirror = files(&made.local().join("mirror")).remove(0);
    let mut tool = Command::new(env!("CARGO_BIN_EXE_lsmctl"));
    let tool = tool.args(["sst", "dump"]).arg(mirror).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = tool.spawn().unwrap();
    drop(running.stdout.take());
    let output = running.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

#[tokio::test]
async fn what_is_no_store_is_said_so() {
    let made = Made { dir: tempfile::tempdir().unwrap() };
    assert!(made.says(&["stats"], 2).contains("there is no folder"));
    std::fs::create_dir_all(made.bucket().join("deep/prefix")).unwrap();
    for command in [&["stats"][..], &["scrub"], &["manifest", "dump"]] {
        assert!(made.says(command, 2).contains("there is no manifest"), "{command:?}");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_lsmctl")).args(["stats"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("which store?"));
}

#[tokio::test]
async fn checkpoints_keep_what_would_be_garbage() {
    let made = made().await;
    let newest = made.json(&["stats"], 0).remove(0)["manifest"].as_u64().unwrap();
    assert!(made.says(&["gc"], 2).contains("--dry-run"), "nothing is deleted by this tool");
    let before = contents(&made.bucket());
    let garbage = |arguments: &[&str]| {
        let gc = [&["gc", "--dry-run", "--keep-manifests", "1", "--keep-for", "0"], arguments].concat();
        made.json(&gc, 0).remove(0)["garbage"].as_array().unwrap().len()
    };
    let all = garbage(&[]);
    assert!(all > 1);
    assert_eq!(made.json(&["gc", "--dry-run"], 0)[0]["garbage"].as_array().unwrap().len(), 0);
    assert!(made.says(&["gc", "--dry-run"], 0).contains("stay: retained manifests"));
    assert!(contents(&made.bucket()) == before, "nothing was written");

    let number = (newest - 1).to_string();
    let create = ["checkpoint", "create", "--name", "mine", "--ttl", "60", "--manifest", &number];
    let checkpoint = made.json(&create, 0).remove(0);
    assert_eq!((checkpoint["manifest"].as_u64(), checkpoint["held"].as_bool()), (Some(newest - 1), Some(true)));
    assert!(garbage(&[]) < all);
    let id = checkpoint["id"].as_str().unwrap();
    assert!(made.says(&["checkpoint", "list"], 0).contains(&format!("{id} keeps manifest {number} for 60 s")));
    made.says(&["checkpoint", "refresh", id], 0);
    made.says(&["checkpoint", "delete", id], 0);
    assert_eq!(made.says(&["checkpoint", "list"], 0), "");
    assert!(made.says(&["checkpoint", "delete", &uuid::Uuid::nil().to_string()], 2).contains("lsmctl: "));
    assert!(made.says(&["checkpoint", "create", "--manifest", "999"], 2).contains("999"));
}
