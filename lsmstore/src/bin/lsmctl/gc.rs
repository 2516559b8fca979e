//! `lsmctl gc`.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use lsmstore::{Config, Env, Garbage, GcKind, KeptBecause, SystemEnv, garbage};
use serde_json::json;

use crate::{Failure, Found, Output, PlaceArgs};

/// What the writer of the store would delete. It alone deletes, in two passes of its own.
#[derive(Args)]
pub struct Gc {
    /// Has to be given: nothing is deleted by this tool
    #[arg(long, required = true)]
    dry_run: bool,
    /// Manifests that stay in any case, the newest ones
    #[arg(long, value_name = "COUNT", default_value_t = 16)]
    keep_manifests: usize,
    /// Seconds for which a manifest stays after another took its place
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    keep_for: u64,
}

pub async fn run(command: &Gc, place: &PlaceArgs, output: Output) -> Result<Found, Failure> {
    debug_assert!(command.dry_run, "it is required");
    let (objects, prefix) = place.open()?;
    let env: Arc<dyn Env> = Arc::new(SystemEnv::new());
    // Nothing is opened, so there is no local folder.
    let config =
        Config::new("", prefix).keep_manifests(command.keep_manifests).keep_for(Duration::from_secs(command.keep_for));
    let report = garbage(&config, &objects, &env).await?;
    let all = || report.deleted.iter().chain(&report.waiting);
    if output.json {
        let object =
            |garbage: &Garbage| json!({ "kind": kind(garbage.kind), "object": garbage.object, "bytes": garbage.bytes });
        let kept = report.kept.iter();
        let kept =
            kept.map(|kept| json!({ "because": because(kept.because), "objects": kept.objects, "bytes": kept.bytes }));
        say!(
            "{}",
            json!({
                "boundary": report.boundary,
                "garbage": all().map(object).collect::<Vec<_>>(),
                "bytes": report.deleted_bytes() + report.waiting_bytes(),
                "kept": kept.collect::<Vec<_>>(),
            })
        );
        return Ok(Found::Fine);
    }
    all().for_each(|garbage| say!("{:<10} {:>16} bytes  {}", kind(garbage.kind), garbage.bytes, garbage.object));
    let bytes = report.deleted_bytes() + report.waiting_bytes();
    say!("{} objects of {bytes} bytes are needed by nothing from manifest {} on", all().count(), report.boundary);
    for kept in &report.kept {
        say!("{:>10} objects of {:>16} bytes stay: {}", kept.objects, kept.bytes, because(kept.because));
    }
    Ok(Found::Fine)
}

fn kind(kind: GcKind) -> &'static str {
    match kind {
        GcKind::Manifest => "manifest",
        GcKind::Table => "table",
        GcKind::Checkpoint => "checkpoint",
        GcKind::Boundary => "boundary",
        GcKind::Log => "log",
        _ => "other",
    }
}

fn because(because: KeptBecause) -> &'static str {
    match because {
        KeptBecause::Retained => "retained manifests",
        KeptBecause::Checkpoint => "manifests that checkpoints keep",
        KeptBecause::Named => "named",
        KeptBecause::OnItsWay => "tables that may be on their way",
        KeptBecause::Newer => "of a later epoch",
        KeptBecause::Fence => "ends of logs",
        KeptBecause::Foreign => "not of this store",
        _ => "other reasons",
    }
}
