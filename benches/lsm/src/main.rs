//! Our engine as a subject of `cargo xtask bench lsm`; the arguments stand in the library.
#![forbid(unsafe_code)]

use kriya_bench_lsm::{Outcome, Own, Task, run};

fn main() -> Outcome<()> {
    let task = Task::of(std::env::args().skip(1))?;
    match task.engine.as_str() {
        "lsmstore" => run::<Own>(&task),
        other => Err(format!("engine {other:?}, expected lsmstore").into()),
    }
}
