//! One distance between two rows, for each set of kernels that this machine can run.
#![allow(missing_docs)] // criterion's macros make public items

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kriya_benches::data;
use kriya_datasets::vectors;

fn kernels(c: &mut Criterion) {
    let rows = vectors(&data("tiny/minilm384/base.f16bin")).expect("checked-in data");
    let (a, b) = (rows.row(0), rows.row(1));
    let mut group = c.benchmark_group("384 dimensions");
    group.throughput(Throughput::Elements(384));
    for kernels in vecindex::kernel::available() {
        let name = kernels.name();
        group.bench_function(format!("{name}/l2_squared"), |bench| {
            bench.iter(|| kernels.l2_squared(black_box(a), black_box(b)));
        });
        group.bench_function(format!("{name}/dot"), |bench| bench.iter(|| kernels.dot(black_box(a), black_box(b))));
        group.bench_function(format!("{name}/cosine_distance"), |bench| {
            bench.iter(|| kernels.cosine_distance(black_box(a), black_box(b)));
        });
    }
    group.finish();
}

criterion_group!(benches, kernels);
criterion_main!(benches);
