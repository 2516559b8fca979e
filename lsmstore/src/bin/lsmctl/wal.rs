//! `lsmctl wal`.

use std::path::PathBuf;

use clap::Subcommand;
use lsmstore::Write;
use lsmstore::inspect::LogFile;
use serde_json::json;

use crate::show::{bytes, damage_json, some};
use crate::{Failure, Found, Output};

#[derive(Subcommand)]
pub enum Wal {
    /// The batches in it. Ends with 1 where a record is damaged or cut off, as the last one of a crash may be
    Dump {
        /// A segment: a file of the folder `wal`
        path: PathBuf,
    },
}

pub fn run(Wal::Dump { path }: &Wal, output: Output) -> Result<Found, Failure> {
    let file = LogFile::open(path)?;
    let (store, nonce, epoch, slot) = (file.store_id(), file.nonce(), file.epoch(), file.slot());
    if output.json {
        let (store, nonce) = (store.to_string(), nonce.to_string());
        say!("{}", json!({ "store_id": store, "epoch": epoch, "slot": slot, "nonce": nonce, "bytes": file.len() }));
    } else {
        say!("store {store}, epoch {epoch}, slot {slot}, after manifest {nonce}, {} bytes", file.len());
    }
    for record in file.records() {
        let record = match record {
            Ok(record) => record,
            Err(damage) if output.json => {
                say!("{}", json!({ "damage": damage_json(&damage) }));
                return Ok(Found::Damaged);
            }
            Err(damage) => {
                eprintln!("lsmctl: {damage}");
                return Ok(Found::Damaged);
            }
        };
        if !output.json {
            let (offset, count, first, synced) = (record.offset, record.batch.len(), record.first, record.synced);
            say!("{offset}: {count} writes from {first} on, {synced} bytes were durable");
        }
        for (write, sequence) in record.batch.iter().zip(record.first..) {
            print_write(&write, sequence, record.offset, output);
        }
    }
    Ok(Found::Fine)
}

fn print_write(write: &Write<'_>, sequence: u64, offset: u64, output: Output) {
    let (kind, key, value) = match write {
        Write::Put { key, value } => ("put", key, Some(value)),
        Write::Delete { key } => ("delete", key, None),
        Write::DeleteRange { from, to } => ("delete range", from, Some(to)),
    };
    let key = bytes(key, output);
    if output.json {
        let value = value.map(|value| bytes(value, output));
        say!("{}", json!({ "offset": offset, "sequence": sequence, "kind": kind, "key": key, "value": value }));
    } else if let Write::DeleteRange { to, .. } = write {
        say!("  {key} @{sequence} {kind} to {}", bytes(to, output));
    } else if let Some(value) = value {
        say!("  {key} @{sequence} = {}", some(value, output));
    } else {
        say!("  {key} @{sequence} {kind}");
    }
}
