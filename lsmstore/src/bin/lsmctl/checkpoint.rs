//! `lsmctl checkpoint`.

use std::sync::Arc;
use std::time::Duration;

use clap::Subcommand;
use lsmstore::{Checkpoint, CheckpointOptions, Checkpoints, SystemEnv};
use serde_json::json;
use uuid::Uuid;

use crate::{Failure, Found, Output, PlaceArgs};

#[derive(Subcommand)]
pub enum Command {
    /// Keep a manifest, and all that it names
    Create {
        /// For people; need not be the only one of that name
        #[arg(long, default_value = "")]
        name: String,
        /// Seconds after which it ends unless it is refreshed [default: it stays until it is deleted]
        #[arg(long, value_name = "SECONDS")]
        ttl: Option<u64>,
        /// Number of the manifest [default: the newest]
        #[arg(long, value_name = "NUMBER")]
        manifest: Option<u64>,
    },
    /// All that are not over
    List,
    /// Have one live for its whole time again
    Refresh {
        /// As it was printed when it was created
        id: Uuid,
    },
    /// End one: what only it kept is garbage
    Delete {
        /// As it was printed when it was created
        id: Uuid,
    },
}

pub async fn run(command: Command, place: &PlaceArgs, output: Output) -> Result<Found, Failure> {
    let (objects, prefix) = place.open()?;
    let checkpoints = Checkpoints::new(objects, Arc::new(SystemEnv::new()), &prefix);
    match command {
        Command::Create { name, ttl, manifest } => {
            let options = CheckpointOptions { name, ttl: ttl.map(Duration::from_secs), manifest };
            show(&checkpoints.create(options).await?, output);
        }
        Command::List => checkpoints.list().await?.iter().for_each(|checkpoint| show(checkpoint, output)),
        Command::Refresh { id } => show(&checkpoints.refresh(id).await?, output),
        Command::Delete { id } => checkpoints.delete(id).await?,
    }
    Ok(Found::Fine)
}

fn show(checkpoint: &Checkpoint, output: Output) {
    let Checkpoint { id, name, manifest, ttl, held, .. } = checkpoint;
    let seconds = ttl.map(|ttl| ttl.as_secs());
    if output.json {
        let nonce = checkpoint.manifest_nonce.to_string();
        say!(
            "{}",
            json!({ "id": id.to_string(), "name": name, "manifest": manifest, "nonce": nonce, "ttl": seconds, "held": held })
        );
        return;
    }
    let ends = seconds.map_or("until it is deleted".to_owned(), |ttl| format!("for {ttl} s without a refresh"));
    let held = if *held { "" } else { ", not held: whoever made it has not finished" };
    say!("{id} keeps manifest {manifest} {ends}{held}{}{name}", if name.is_empty() { "" } else { ": " });
}
