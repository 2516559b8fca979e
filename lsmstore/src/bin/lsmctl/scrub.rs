//! `lsmctl scrub`.

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use lsmstore::inspect::Bucket;
use serde_json::json;

use crate::show::damage_json;
use crate::{Failure, Found, Output};

#[derive(Args)]
pub struct Scrub {
    /// All manifests that are there, not only the newest
    #[arg(long)]
    all: bool,
}

pub async fn run(command: &Scrub, bucket: &Bucket, output: Output) -> Result<Found, Failure> {
    let bar = if output.json { ProgressBar::hidden() } else { ProgressBar::no_length() };
    bar.set_style(ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left: {msg}")?);
    let scrubbed = bucket
        .scrub(command.all, |progress| {
            bar.set_length(progress.of_bytes);
            bar.set_position(progress.bytes);
            bar.set_message(format!("{} of {} tables", progress.tables, progress.of_tables));
        })
        .await;
    bar.finish_and_clear();
    let scrubbed = scrubbed?;
    if scrubbed.manifests == 0 && scrubbed.damage.is_empty() {
        return Err(Failure("there is no manifest".into()));
    }
    if output.json {
        let damage: Vec<_> = scrubbed.damage.iter().map(damage_json).collect();
        say!(
            "{}",
            json!({
                "manifests": scrubbed.manifests,
                "tables": scrubbed.tables,
                "logs": scrubbed.logs,
                "blocks": scrubbed.blocks,
                "entries": scrubbed.entries,
                "bytes": scrubbed.bytes,
                "damage": damage,
            })
        );
    } else {
        for damage in &scrubbed.damage {
            say!("{damage}");
        }
        say!(
            "{} manifests, {} tables, {} objects of logs, {} blocks, {} entries, {} bytes: {}",
            scrubbed.manifests,
            scrubbed.tables,
            scrubbed.logs,
            scrubbed.blocks,
            scrubbed.entries,
            scrubbed.bytes,
            match scrubbed.damage.len() {
                0 => "all in order".to_owned(),
                count => format!("{count} damaged places"),
            }
        );
    }
    Ok(if scrubbed.damage.is_empty() { Found::Fine } else { Found::Damaged })
}
