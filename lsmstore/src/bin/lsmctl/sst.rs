//! `lsmctl sst`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use lsmstore::inspect::{Kind, TableFile};
use lsmstore::{StorageError, TableId};
use serde_json::json;

use crate::show::{bytes, damage_json, some, table_json, table_line, typed};
use crate::{Failure, Found, Output, PlaceArgs};

#[derive(Subcommand)]
pub enum Sst {
    /// The versions in it
    Dump(Dump),
    /// Check every checksum of it, and that its versions are in order
    Verify {
        /// Its name (epoch-counter, as manifests show it) in the store, or a file
        table: String,
    },
}

#[derive(Args)]
pub struct Dump {
    /// Its name (epoch-counter, as manifests show it) in the store, or a file
    table: String,
    /// First key; escapes as they are shown
    #[arg(long, value_name = "KEY")]
    from: Option<String>,
    /// The key before which it ends
    #[arg(long, value_name = "KEY")]
    to: Option<String>,
    /// Versions to show at most
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

/// The table that a name like `1-2a` means: hexadecimal epoch and counter.
pub fn named(name: &str) -> Option<TableId> {
    let (epoch, counter) = name.split_once('-')?;
    let number = |text: &str| u64::from_str_radix(text, 16).ok().filter(|_| (1..=16).contains(&text.len()));
    Some(TableId { epoch: number(epoch)?, counter: number(counter)? })
}

async fn find(table: &str, place: &PlaceArgs) -> Result<Result<TableFile, lsmstore::Corruption>, Failure> {
    let found = match named(table) {
        Some(id) if place.store.is_some() => place.bucket()?.table(id).await,
        Some(_) if !Path::new(table).exists() => {
            return Err(Failure(format!("{table} is no file; for the table of a store give --store as well")));
        }
        _ => TableFile::open(&PathBuf::from(table)),
    };
    match found {
        Ok(file) => Ok(Ok(file)),
        Err(StorageError::Corrupt(damage)) => Ok(Err(damage)),
        Err(error) => Err(error.into()),
    }
}

fn told(damage: &lsmstore::Corruption, output: Output) -> Found {
    if output.json {
        say!("{}", json!({ "damage": damage_json(damage) }));
    } else {
        eprintln!("lsmctl: {damage}");
    }
    Found::Damaged
}

pub async fn run(command: Sst, place: &PlaceArgs, output: Output) -> Result<Found, Failure> {
    match command {
        Sst::Dump(command) => match find(&command.table, place).await? {
            Ok(file) => dump(&command, &file, output),
            Err(damage) => Ok(told(&damage, output)),
        },
        Sst::Verify { table } => Ok(match find(&table, place).await? {
            Ok(file) => verify(&file, output),
            Err(damage) => told(&damage, output),
        }),
    }
}

fn dump(command: &Dump, file: &TableFile, output: Output) -> Result<Found, Failure> {
    let bound = |key: &Option<String>| key.as_deref().map(|key| typed(key, output)).transpose().map_err(Failure);
    let (from, to) = (bound(&command.from)?, bound(&command.to)?);
    if !output.json {
        let (keys, values) = file.logical_bytes();
        say!("{}", table_line(&file.info(), output));
        say!(
            "{} bytes: {} blocks, filter {}, index {}; keys {keys}, values {values} bytes",
            file.len(),
            file.blocks(),
            file.filter_len(),
            file.index_len()
        );
    }
    let entries = file.entries(from.as_deref(), to.as_deref());
    for entry in entries.take(command.limit.unwrap_or(usize::MAX)) {
        let entry = match entry {
            Ok(entry) => entry,
            Err(damage) => return Ok(told(&damage, output)),
        };
        let kind = match entry.kind {
            Kind::Put => "put",
            Kind::Delete => "delete",
            _ => "unknown",
        };
        let key = bytes(&entry.key, output);
        if output.json {
            let value = (entry.kind == Kind::Put).then(|| bytes(&entry.value, output));
            say!("{}", json!({ "key": key, "sequence": entry.sequence, "kind": kind, "value": value }));
        } else if entry.kind == Kind::Put {
            say!("{key} @{} = {}", entry.sequence, some(&entry.value, output));
        } else {
            say!("{key} @{} {kind}", entry.sequence);
        }
    }
    Ok(Found::Fine)
}

fn verify(file: &TableFile, output: Output) -> Found {
    let checked = file.check();
    if output.json {
        let damage: Vec<_> = checked.damage.iter().map(damage_json).collect();
        let (blocks, entries) = (checked.blocks, checked.entries);
        say!(
            "{}",
            json!({ "table": table_json(&file.info(), output), "blocks": blocks, "entries": entries, "damage": damage })
        );
    } else {
        for damage in &checked.damage {
            say!("{damage}");
        }
        let outcome = if checked.damage.is_empty() { "in order" } else { "damaged" };
        say!(
            "table {}: {} of {} blocks, {} entries, {outcome}",
            file.id(),
            checked.blocks,
            file.blocks(),
            checked.entries
        );
    }
    if checked.damage.is_empty() { Found::Fine } else { Found::Damaged }
}
