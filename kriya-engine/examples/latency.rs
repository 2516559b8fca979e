//! How long one write, one view and one index insert take through the socket, with a log that does nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kriya_engine::catalogue::IndexDescription;
use kriya_engine::worker::{
    Endpoint, Facts, Host, HostError, KeptLog, Level, LogChunk, LogRange, WorkerConfig, XidState, start,
};
use kriya_engine::{Check, IndexCursor, IndexDefinition, NewEntry, PollWait, Session, VectorRef, Written, keys};
use lsmstore::Batch;

struct Quiet(AtomicU64);

impl Host for Quiet {
    fn facts(&self) -> Result<Facts, HostError> {
        Ok(Facts { system_identifier: 1, timeline: 1, next_xid: 3 })
    }
    fn position(&self) -> Result<u64, HostError> {
        Ok(self.0.load(Ordering::Relaxed))
    }
    fn redo(&self) -> Result<u64, HostError> {
        Ok(0)
    }

    fn log(&self, records: Vec<Vec<u8>>, _: bool) -> Result<LogRange, HostError> {
        let bytes: usize = records.iter().map(Vec::len).sum();
        let start = self.0.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(LogRange { start, end: start + bytes as u64 })
    }
    fn read_log(&self, _: u64, upto: u64, _: usize) -> Result<LogChunk, HostError> {
        Ok(LogChunk { records: Vec::new(), next: upto, end_reached: true })
    }
    fn ensure_slot(&self, _: u64) -> Result<(), HostError> {
        Ok(())
    }
    fn advance_slot(&self, _: u64) -> Result<(), HostError> {
        Ok(())
    }
    fn kept(&self) -> Result<KeptLog, HostError> {
        Ok(KeptLog::default())
    }

    fn resolve(&self, xids: &[u64]) -> Result<Vec<XidState>, HostError> {
        Ok(vec![XidState::Committed; xids.len()])
    }
    fn barrier(&self) -> Result<(), HostError> {
        Ok(())
    }
    fn report(&self, _: Level, message: &str) {
        eprintln!("{message}");
    }
}

fn timed<T>(what: &str, count: u32, mut each: impl FnMut(u32) -> T) {
    let began = Instant::now();
    for n in 0..count {
        std::hint::black_box(each(n));
    }
    println!("{what:40} {:8.2} us", began.elapsed().as_secs_f64() * 1e6 / f64::from(count));
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("kriya-latency-{}", std::process::id()));
    let config = WorkerConfig {
        cache_dir: None,
        cache_bytes: 4 << 30,
        retention: Duration::from_secs(3600),
        collect_every: Duration::from_secs(900),
        dir: dir.clone(),
        endpoint: Endpoint::Memory,
        bucket: "b".into(),
        prefix: String::new(),
        memtable_bytes: 64 << 20,
        lease: None,
        backlog_bytes: 1 << 30,
        flush_interval: Duration::from_secs(5),
        version: "latency".into(),
    };
    let worker = start(config, Arc::new(Quiet(AtomicU64::new(1000))));
    let mut wait = PollWait;
    let mut session = loop {
        match Session::connect(&WorkerConfig::socket(&dir), 1, &mut wait) {
            Ok(session) => break session,
            Err(_) if worker.finished().is_none() => std::thread::yield_now(),
            Err(error) => return Err(error.into()),
        }
    };
    let generation = session.generation();
    let batch_of = |first: u32, count: u32| {
        let mut batch = Batch::new();
        for tid in first..first + count {
            batch.put(&keys::row(1, tid.into()), &[7; 124]);
        }
        batch
    };
    timed("write of one row", 20_000, |n| {
        matches!(session.write(generation, &batch_of(n, 1), &[], &mut wait), Ok(Written::At(_)))
    });
    timed("write of one row with a check", 20_000, |n| {
        let check = [Check { key: keys::mark(1, n.into()).to_vec(), expected: None }];
        matches!(session.write(generation, &batch_of(n, 1), &check, &mut wait), Ok(Written::At(_)))
    });
    timed("write of 1,000 rows", 200, |n| session.write(generation, &batch_of(n * 1000, 1000), &[], &mut wait).is_ok());
    timed("view, not moved", 100_000, |_| session.view(&mut wait).is_ok());
    let view = session.view(&mut wait)?;
    timed("get", 100_000, |n| {
        view.get(&keys::row(1, u64::from(n) % 20_000), view.read_sequence()).map(|v| v.map(<[u8]>::len)).unwrap_or(None)
    });
    let description = IndexDescription {
        database: 1,
        tablespace: 1,
        relfilenumber: 1,
        created_xid: 3,
        incarnation: 1,
        table: None,
        metric: 0,
        m: 16,
        ef_construction: 200,
        dim: 0,
        name: "i".into(),
    };
    let id = session.new_id(&mut wait)?.ok_or("the store is full")?;
    session.build_begin(generation, &IndexDefinition { id, description, estimated_rows: 0 }, &mut wait)?;
    session.build_end(&mut |_| {}, &mut wait)?;
    let vector = |n: u32| {
        (0..128u32)
            .map(|i| ((n.wrapping_mul(2_654_435_761) ^ i.wrapping_mul(40_503)) % 1000) as f32)
            .collect::<Vec<_>>()
    };
    timed("index insert, one of 128 dimensions", 5_000, |n| {
        let vector = vector(n);
        session
            .index_insert(generation, id, &[NewEntry { tid: n.into(), vector: VectorRef::Inline(&vector) }], &mut wait)
            .is_ok()
    });
    timed("search, 10 of 5,000, ef 64", 2_000, |n| {
        let view = session.view(&mut wait).ok()?;
        let reader = session.index(id, &mut wait).ok()?;
        let mut cursor = IndexCursor::start(reader, view, &vector(n + 7_000_000), 64).ok()?;
        (0..10).map(|_| cursor.next().ok().flatten()).last()
    });
    println!("pending: {:?}", session.status(&mut wait)?.indexes[0].pending_rows);
    session.transaction_ended();
    worker.stop();
    while worker.finished().is_none() {
        std::thread::yield_now();
    }
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
