//! Other engines as subjects of `cargo xtask bench lsm`; the arguments stand in the library `kriya-bench-lsm`.

mod fjall;
#[cfg(feature = "rocksdb")]
mod rocksdb;
mod slate;

use kriya_bench_lsm::{Outcome, Task, run};

fn main() -> Outcome<()> {
    let task = Task::of(std::env::args().skip(1))?;
    match task.engine.as_str() {
        "fjall" => run::<fjall::Fjall>(&task),
        "slatedb" => run::<slate::Slate>(&task),
        #[cfg(feature = "rocksdb")]
        "rocksdb" => run::<rocksdb::RocksDb>(&task),
        other => Err(format!("engine {other:?} is not built in").into()),
    }
}
