//! Prints how fast the store is on this machine: `cargo run -p lsmstore --release --example figures`.
//!
//! 16-byte keys in random order, 100-byte values, local folder. One thread; run it on a quiet machine.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use lsmstore::{Batch, Config, Durability, KeepAll, LogChoice, RegionKind, Store, SystemEnv, WriteError, objects};

const ROWS: u64 = 400_000;
const BATCH: u64 = 1_000;

/// The n-th key: a bijection of n, so that keys come in random order and none twice; odd inputs are never written.
fn key(n: u64) -> [u8; 16] {
    let mut mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let mut key = [b'k'; 16];
    key[..8].copy_from_slice(&mixed.to_be_bytes());
    key
}

fn value(n: u64) -> [u8; 100] {
    let mut value = [0; 100];
    for (at, chunk) in value[..50].chunks_mut(8).enumerate() {
        chunk.copy_from_slice(&key(n + at as u64)[..chunk.len()]);
    }
    value
}

/// Wall clock and, because machines are shared, CPU time of this thread (Linux).
struct Start(Instant, f64);

impl Start {
    fn now() -> Start {
        Start(Instant::now(), cpu())
    }

    fn wall(&self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }

    fn cpu(&self) -> f64 {
        cpu() - self.1
    }
}

fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

fn per_second(name: &str, count: u64, start: &Start) {
    let (wall, each) = (start.wall(), 1e6 / count as f64);
    println!(
        "{name:<44} {:>9.0} /s  {:>8.3} us each, {:>7.3} us CPU",
        count as f64 / wall,
        wall * each,
        start.cpu() * each
    );
}

async fn fill(store: &Store) -> Result<Vec<f64>, Box<dyn Error>> {
    let mut millis = Vec::new();
    for batch_number in 0..ROWS / BATCH {
        let mut batch = Batch::new();
        for row in batch_number * BATCH..(batch_number + 1) * BATCH {
            batch.put(&key(2 * row), &value(row));
        }
        loop {
            let start = Start::now();
            match store.apply(&batch) {
                Ok(_) => {
                    millis.push(start.cpu() * 1e3);
                    break;
                }
                Err(WriteError::Full { .. }) => drop(store.flush().await?),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(millis)
}

fn gets(store: &Store, name: &str, odd: u64) -> Result<(), Box<dyn Error>> {
    let view = store.view()?;
    let sequence = view.read_sequence();
    for pass in ["first", "again"] {
        let start = Start::now();
        let count: u64 = 300_000;
        let mut found = 0;
        for n in 0..count {
            let row = n.wrapping_mul(0x2545_f491_4f6c_dd1d) % ROWS;
            found += u64::from(view.get(&key(2 * row + odd), sequence)?.is_some());
        }
        assert_eq!(found, if odd == 0 { count } else { 0 });
        per_second(&format!("{name}, {pass}"), count, &start);
    }
    Ok(())
}

fn scan(store: &Store, name: &str) -> Result<(), Box<dyn Error>> {
    let view = store.view()?;
    for pass in ["first", "again"] {
        let start = Start::now();
        let mut iter = view.iter(view.read_sequence())?;
        let (mut bytes, mut count) = (0, 0);
        let mut standing = iter.seek_first()?;
        while standing {
            bytes += iter.key().len() + iter.value().len();
            count += 1;
            standing = iter.next()?;
        }
        let megabytes = bytes as f64 / 1e6;
        let (wall, cpu) = (megabytes / start.wall(), megabytes / start.cpu());
        println!("{:<44} {wall:>9.0} MB/s, {cpu:.0} MB per CPU second, {count} rows", format!("{name}, {pass}"));
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    for kind in [RegionKind::Heap, RegionKind::Shared] {
        let dir = folder.path().join(format!("{kind:?}"));
        let config = Config::new(&dir, "figures").memtable_bytes(256 << 20).memtable_region(kind);
        let objects = objects::local(&dir.join("bucket"))?;
        let store = Store::open(config, objects, Arc::new(SystemEnv::new()), LogChoice::Nobody).await?;
        println!("--- memtable of {ROWS} rows, {kind:?}");
        let start = Start::now();
        let mut millis = fill(&store).await?;
        per_second("rows applied in batches of 1000, random order", ROWS, &start);
        millis.sort_by(f64::total_cmp);
        let at = |share: f64| millis[((millis.len() - 1) as f64 * share) as usize];
        println!("a batch of 1000, CPU: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms", at(0.5), at(0.99), at(1.0));
        gets(&store, "get present from the memtable", 0)?;
        gets(&store, "get absent from the memtable", 1)?;
        scan(&store, "scan of the memtable")?;
        let start = Start::now();
        store.flush().await?;
        println!("flush: {:.2} s, {:?}", start.wall(), store.stats().levels[0]);
    }
    let dir = folder.path().join("order");
    let config = Config::new(&dir, "figures").memtable_bytes(256 << 20);
    let store = Store::open(config, objects::memory(), Arc::new(SystemEnv::new()), LogChoice::Nobody).await?;
    let start = Start::now();
    for batch_number in 0..ROWS / BATCH {
        let mut batch = Batch::new();
        for row in batch_number * BATCH..(batch_number + 1) * BATCH {
            batch.put(&u128::from(row).to_be_bytes(), &value(row));
        }
        store.apply(&batch)?;
    }
    per_second("rows applied in batches of 1000, in key order", ROWS, &start);
    drop(store);
    let dir = folder.path().join("tables");
    let config = Config::new(&dir, "figures").memtable_bytes(32 << 20);
    let objects = objects::local(&dir.join("bucket"))?;
    let store = Store::open(config, objects, Arc::new(SystemEnv::new()), LogChoice::Nobody).await?;
    let start = Start::now();
    fill(&store).await?;
    store.flush().await?;
    per_second("rows applied and flushed", ROWS, &start);
    println!("--- {} tables in L0", store.stats().levels[0].tables);
    gets(&store, "get present from L0", 0)?;
    gets(&store, "get absent from L0", 1)?;
    scan(&store, "scan of L0")?;
    let start = Start::now();
    println!("merge: {:?} in {:.2} s", store.merge(Arc::new(KeepAll)).await?, start.wall());
    println!("--- {} tables in L1", store.stats().levels[1].tables);
    gets(&store, "get present from L1", 0)?;
    gets(&store, "get absent from L1", 1)?;
    scan(&store, "scan of L1")?;
    store.close().await?;
    let start = Start::now();
    let config = Config::new(&dir, "figures");
    let objects = objects::local(&dir.join("bucket"))?;
    let store = Store::open(config, objects, Arc::new(SystemEnv::new()), LogChoice::Nobody).await?;
    println!("reopen after an orderly stop: {:.1} ms", start.wall() * 1e3);
    drop(store);

    println!("--- own log, synced, batches of 100");
    for writers in [1, 8] {
        let dir = folder.path().join(format!("log{writers}"));
        let objects = objects::memory();
        let store = Store::open(Config::new(&dir, ""), objects, Arc::new(SystemEnv::new()), LogChoice::Own).await?;
        let start = Start::now();
        let tasks: Vec<_> = (0..writers)
            .map(|writer| {
                let store = store.clone();
                tokio::spawn(async move {
                    for round in 0..200_u64 {
                        let mut batch = Batch::new();
                        for row in 0..100 {
                            let n = (round * writers + writer) * 100 + row;
                            batch.put(&key(n), &value(n));
                        }
                        store.write(batch, Durability::Local).await?;
                    }
                    Ok::<_, WriteError>(())
                })
            })
            .collect();
        for task in tasks {
            task.await??;
        }
        per_second(&format!("batches, {writers} writers"), 200 * writers, &start);
    }
    Ok(())
}
