//! `lsmctl wal`.

use std::path::PathBuf;

use clap::Subcommand;
use lsmstore::Write;
use lsmstore::inspect::LogFile;
use serde_json::json;

use crate::show::{bytes, damage_json, some};
use crate::sst::named;
use crate::{Failure, Found, Output, PlaceArgs};

#[derive(Subcommand)]
pub enum Wal {
    /// The batches in it. Ends with 1 where a record is damaged or cut off, as the last one of a crash may be
    Dump {
        /// A segment, which is a file of the folder `wal`; or epoch-number, as `wal list` shows it, of an object of the store
        log: String,
    },
    /// The objects of logs in the store's bucket
    List,
}

pub async fn run(command: Wal, place: &PlaceArgs, output: Output) -> Result<Found, Failure> {
    match command {
        Wal::Dump { log } => dump(&find(&log, place).await?, output),
        Wal::List => list(place, output).await,
    }
}

/// Epoch and number that a name like `1-2a` means.
async fn find(log: &str, place: &PlaceArgs) -> Result<LogFile, Failure> {
    match named(log) {
        Some(id) if place.store.is_some() => {
            let found = place.bucket()?.log(id.epoch, id.counter).await?;
            found.ok_or_else(|| Failure(format!("object {log} of the log is not there")))
        }
        _ => Ok(LogFile::open(&PathBuf::from(log))?),
    }
}

async fn list(place: &PlaceArgs, output: Output) -> Result<Found, Failure> {
    let bucket = place.bucket()?;
    for (epoch, number, bytes) in bucket.logs().await? {
        let Some(file) = bucket.log(epoch, number).await? else { continue };
        let first = file.records().next().transpose()?.map(|record| record.first);
        if output.json {
            say!("{}", json!({ "epoch": epoch, "number": number, "bytes": bytes, "first": first }));
        } else {
            let holds = first.map_or("the end of the epoch".to_owned(), |first| format!("writes from {first} on"));
            say!("{epoch:x}-{number:x}: {bytes} bytes, {holds}");
        }
    }
    Ok(Found::Fine)
}

fn dump(file: &LogFile, output: Output) -> Result<Found, Failure> {
    let (store, nonce, epoch, slot) = (file.store_id(), file.nonce(), file.epoch(), file.slot());
    if output.json {
        let (store, nonce) = (store.to_string(), nonce.to_string());
        say!("{}", json!({ "store_id": store, "epoch": epoch, "slot": slot, "nonce": nonce, "bytes": file.len() }));
    } else {
        let what = if file.is_object() { "object" } else { "slot" };
        say!("store {store}, epoch {epoch}, {what} {slot}, nonce {nonce}, {} bytes", file.len());
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
            let durable = if file.is_object() { String::new() } else { format!(", {synced} bytes were durable") };
            say!("{offset}: {count} writes from {first} on{durable}");
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
