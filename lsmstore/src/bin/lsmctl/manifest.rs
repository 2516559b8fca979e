//! `lsmctl manifest`.

use std::path::PathBuf;

use clap::Subcommand;
use lsmstore::inspect::ManifestDump;
use serde_json::json;

use crate::show::{bytes, table_json, table_line};
use crate::{Failure, Found, Output, PlaceArgs};

#[derive(Subcommand)]
pub enum Manifest {
    /// All that are there, oldest first
    List,
    /// All that one says: the newest if none is named
    Dump {
        /// Its number
        number: Option<u64>,
        /// A file instead: a store's local manifest, or a copy of an object
        #[arg(long, conflicts_with = "number")]
        file: Option<PathBuf>,
    },
}

pub async fn run(command: Manifest, place: &PlaceArgs, output: Output) -> Result<Found, Failure> {
    match command {
        Manifest::List => {
            for listed in place.bucket()?.manifests().await? {
                if output.json {
                    let (number, bytes, modified) = (listed.number, listed.bytes, listed.modified_at);
                    say!("{}", json!({ "number": number, "bytes": bytes, "modified": modified }));
                } else {
                    say!("{:>20} {:>12} bytes, written at {}", listed.number, listed.bytes, listed.modified);
                }
            }
        }
        Manifest::Dump { number, file: Some(path) } => {
            debug_assert!(number.is_none(), "they exclude each other");
            dump(&ManifestDump::open(&path)?, output);
        }
        Manifest::Dump { number, file: None } => match place.bucket()?.manifest(number).await? {
            Some(manifest) => dump(&manifest, output),
            None => {
                return Err(Failure(
                    number.map_or("there is no manifest".into(), |n| format!("there is no manifest {n}")),
                ));
            }
        },
    }
    Ok(Found::Fine)
}

fn dump(manifest: &ManifestDump, output: Output) {
    let info = &manifest.info;
    if output.json {
        let level = |tables: &Vec<lsmstore::TableRef>| -> Vec<_> {
            tables.iter().map(|table| table_json(table, output)).collect()
        };
        let sections =
            manifest.sections.iter().map(|(kind, value)| json!({ "kind": kind, "bytes": bytes(value, output) }));
        let recover = manifest.recover.iter().map(|(epoch, slot)| json!({ "epoch": epoch, "slot": slot }));
        let remote = manifest.remote.iter().map(|(epoch, number)| json!({ "epoch": epoch, "number": number }));
        say!(
            "{}",
            json!({
                "number": info.number,
                "bytes": manifest.bytes,
                "nonce": info.nonce.to_string(),
                "previous_nonce": info.previous_nonce.to_string(),
                "store_id": info.store_id.to_string(),
                "epoch": info.epoch,
                "floor": manifest.floor,
                "last_sequence": info.last_sequence,
                "position": info.position,
                "clean": info.clean,
                "log": manifest.log,
                "log_owner": manifest.log_owner.to_string(),
                "recover": recover.collect::<Vec<_>>(),
                "remote": remote.collect::<Vec<_>>(),
                "owner": bytes(&info.owner, output),
                "levels": manifest.levels.iter().map(level).collect::<Vec<_>>(),
                "sections": sections.collect::<Vec<_>>(),
            })
        );
        return;
    }
    say!("manifest        {} ({} bytes)", info.number, manifest.bytes);
    say!("nonce           {}, after {}", info.nonce, info.previous_nonce);
    say!("store           {}", info.store_id);
    say!("epoch           {}", info.epoch);
    say!("sequences       up to {}, readable from {}", info.last_sequence, manifest.floor);
    say!("log             kept by {}, position {}", manifest.log, info.position);
    if !manifest.log_owner.is_nil() {
        say!("log's folder    {}", manifest.log_owner);
    }
    for (epoch, slot) in &manifest.recover {
        say!("replayed        epoch {epoch} from slot {slot}");
    }
    for (epoch, number) in &manifest.remote {
        say!("replayed        epoch {epoch} from object {number} of the log");
    }
    say!("orderly stop    {}", if info.clean { "yes" } else { "no" });
    if !info.owner.is_empty() {
        say!("owner           {}", bytes(&info.owner, output));
    }
    for (kind, value) in &manifest.sections {
        say!("section {kind}       {}", bytes(value, output));
    }
    for (number, tables) in manifest.levels.iter().enumerate() {
        say!("L{number}: {} tables", tables.len());
        for table in tables {
            say!("  {}", table_line(table, output));
        }
    }
}
