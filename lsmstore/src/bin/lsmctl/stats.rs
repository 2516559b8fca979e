//! `lsmctl stats`.

use lsmstore::inspect::Bucket;
use serde_json::json;

use crate::{Failure, Found, Output};

pub async fn run(bucket: &Bucket, output: Output) -> Result<Found, Failure> {
    let newest = bucket.manifest(None).await?.ok_or_else(|| Failure("there is no manifest".into()))?;
    let usage = bucket.usage(&newest).await?;
    let info = &newest.info;
    let levels = newest.levels.iter().map(|tables| {
        let sum = |of: fn(&lsmstore::TableRef) -> u64| tables.iter().map(of).sum::<u64>();
        let bytes = (sum(|table| table.object_len), sum(|table| table.mirror_len));
        (tables.len(), bytes, sum(|table| table.entries), sum(|table| table.deletions))
    });
    if output.json {
        let level = |(tables, (objects, mirrors), entries, deletions): (usize, (u64, u64), u64, u64)| json!({ "tables": tables, "object_bytes": objects, "mirror_bytes": mirrors, "entries": entries, "deletions": deletions });
        say!(
            "{}",
            json!({
                "manifest": info.number,
                "store_id": info.store_id.to_string(),
                "epoch": info.epoch,
                "last_sequence": info.last_sequence,
                "clean": info.clean,
                "levels": levels.map(level).collect::<Vec<_>>(),
                "objects": {
                    "manifests": usage.manifests, "manifest_bytes": usage.manifest_bytes,
                    "tables": usage.tables, "table_bytes": usage.table_bytes,
                    "unnamed": usage.unnamed, "unnamed_bytes": usage.unnamed_bytes,
                    "others": usage.others, "other_bytes": usage.other_bytes,
                },
            })
        );
        return Ok(Found::Fine);
    }
    say!(
        "store {}, manifest {}, epoch {}, sequences up to {}, {}",
        info.store_id,
        info.number,
        info.epoch,
        info.last_sequence,
        if info.clean { "stopped in an orderly way" } else { "in use or not stopped in an orderly way" }
    );
    say!(
        "{:<6}{:>8}{:>16}{:>16}{:>14}{:>12}",
        "level",
        "tables",
        "object bytes",
        "mirror bytes",
        "entries",
        "deletions"
    );
    let mut sum = (0, (0, 0), 0, 0);
    for (number, level) in levels.enumerate() {
        row(&format!("L{number}"), level);
        sum = (sum.0 + level.0, (sum.1.0 + level.1.0, sum.1.1 + level.1.1), sum.2 + level.2, sum.3 + level.3);
    }
    row("sum", sum);
    say!("{:>10} manifests         {:>16} bytes", usage.manifests, usage.manifest_bytes);
    say!("{:>10} tables            {:>16} bytes", usage.tables, usage.table_bytes);
    say!("{:>10} unnamed tables    {:>16} bytes", usage.unnamed, usage.unnamed_bytes);
    say!("{:>10} other objects     {:>16} bytes", usage.others, usage.other_bytes);
    Ok(Found::Fine)
}

fn row(name: &str, (tables, (objects, mirrors), entries, deletions): (usize, (u64, u64), u64, u64)) {
    say!("{name:<6}{tables:>8}{objects:>16}{mirrors:>16}{entries:>14}{deletions:>12}");
}
