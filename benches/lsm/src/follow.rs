//! A bucket read by somebody who has nothing of it on the local disk: gets, and one scan beside raw requests for the same
//! objects.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use lsmstore::{Follower, FollowerConfig, SystemEnv};
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::{Map, Value};

use crate::engine::Outcome;
use crate::objects::Counted;
use crate::work::{Clock, Task};

/// Bytes a second of the link to the object store: 1 Gbit.
const LINK: f64 = 125e6;
/// Bytes of a raw request, and how many are under way.
const REQUEST: u64 = 1 << 20;
const AT_A_TIME: usize = 16;
/// Gets of the measurement.
const GETS: u64 = 20;

/// Measures it.
pub(crate) fn measure(task: &Task) -> Outcome<Map<String, Value>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(follow(task))
}

async fn open(objects: &Arc<Counted>) -> Outcome<Follower> {
    let config = FollowerConfig::new("db").cache_bytes(crate::CACHE_BYTES);
    Ok(Follower::open(config, Arc::clone(objects) as _, Arc::new(SystemEnv::new())).await?)
}

async fn follow(task: &Task) -> Outcome<Map<String, Value>> {
    let objects = Counted::open(&task.folder.join("objects"), false, task.latency)?;
    let objects = Arc::new(objects.with_link(LINK));
    let rows = task.rows;
    let clock = Clock::start();
    let follower = open(&objects).await?;
    let opened = clock.wall();
    let requests = |follower: &Follower| follower.requests().total();
    let at_open = requests(&follower);
    let mut most = 0;
    for n in 0..GETS {
        let before = requests(&follower);
        if follower.get(&rows.key(rows.draw(n))).await?.is_none() {
            return Err("a key that was written is not there".into());
        }
        most = most.max(requests(&follower) - before);
    }
    let (got, at_gets) = (clock.wall(), requests(&follower));
    drop(follower);

    let follower = open(&objects).await?;
    let mut scan = follower.snapshot().scan(..);
    let scanning = Clock::start();
    let (mut count, mut bytes) = (0, 0);
    while let Some((key, value)) = scan.next().await? {
        (count, bytes) = (count + 1, bytes + (key.len() + value.len()) as u64);
    }
    if (count, bytes) != (rows.count, rows.bytes()) {
        return Err(format!("the scan saw {count} rows of {bytes} bytes").into());
    }
    let scanned = scanning.wall();
    let mut figures = scanning.figures(count, bytes);
    let asked = follower.requests().get;

    let raw = Clock::start();
    let fetched = raw_gets(&objects, follower.snapshot().manifest().object_bytes).await?;
    let raw = fetched as f64 / 1e6 / raw.wall();
    let object_speed = asked.bytes as f64 / 1e6 / scanned;
    for (name, figure) in [
        ("open_s", opened),
        ("gets_at_open", at_open as f64),
        ("get_ms", (got - opened) * 1e3 / GETS as f64),
        ("requests_per_get", (at_gets - at_open) as f64 / GETS as f64),
        ("requests_most", most as f64),
        ("requests_of_scan", asked.requests as f64),
        ("object_mb_per_s", object_speed),
        ("raw_mb_per_s", raw),
        ("share_of_raw", object_speed / raw),
    ] {
        figures.insert(name.into(), figure.into());
    }
    Ok(figures)
}

/// The tables of the bucket by many requests at a time; bytes that came. There are about `expected`.
async fn raw_gets(objects: &Arc<Counted>, expected: u64) -> Outcome<u64> {
    let tables: Vec<_> = objects.list(Some(&"db/sst".into())).try_collect().await?;
    let parts = tables.iter().flat_map(|table| {
        let parts = (0..table.size).step_by(REQUEST as usize);
        parts.map(|begin| (&table.location, begin..(begin + REQUEST).min(table.size)))
    });
    let mut left = expected;
    let parts: Vec<_> = parts
        .take_while(|(_, range)| {
            let wanted = left > 0;
            left = left.saturating_sub(range.end - range.start);
            wanted
        })
        .collect();
    let fetched = futures::stream::iter(parts).map(|(location, range)| objects.get_range(location, range));
    let bytes: Vec<u64> = fetched.buffer_unordered(AT_A_TIME).map_ok(|bytes| bytes.len() as u64).try_collect().await?;
    Ok(bytes.iter().sum())
}
